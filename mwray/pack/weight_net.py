"""K weight nets of any shapes as one: layers padded to the widest and to the deepest net.

A hidden unit that a net does not have gets and gives weights of zero, so it is zero and so is every gradient of it. A
layer that it does not have is put in behind its last hidden layer as the identity, which ReLU leaves alone; the
identity's own gradient is not zero, so a mask says what is a net's own and may move.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mwray.models.class_weight_net import ClassWeightNet
from mwray.models.weight_net import WeightNet


class StackedWeightNet(nn.Module):
    """K weight nets, with or without a class as their second argument, all of one kind.

    Attributes:
        size: K.
        masks: for each parameter a tensor of its shape, 1 where a net has a weight of its own.
    """

    def __init__(self, nets: Sequence[WeightNet | ClassWeightNet]) -> None:
        """Take copies of the parameters of `nets`."""
        super().__init__()
        self.size = len(nets)
        self._linears = [[m for m in net.modules() if isinstance(m, nn.Linear)] for net in nets]
        self._depth = max(len(linears) for linears in self._linears)
        own = self._linears[0][0].weight
        inputs, outputs = [1] * self._depth, [1] * self._depth
        for linears in self._linears:
            for layer in range(self._depth):
                rows, columns = _shape(linears, layer, self._depth)
                outputs[layer], inputs[layer] = max(outputs[layer], rows), max(inputs[layer], columns)
        shapes = [shape for o, i in zip(outputs, inputs, strict=True) for shape in ((o, i), (1, o))]
        self.layers = nn.ParameterList(own.new_zeros(self.size, *shape) for shape in shapes)
        self.masks = [torch.zeros_like(parameter) for parameter in self.layers]
        with torch.no_grad():
            for row, net in enumerate(nets):
                self._pass_through(row)
                for place, parameter in zip(self.views(row, list(self.layers)), net.parameters(), strict=True):
                    place.copy_(parameter)
                for place in self.views(row, self.masks):
                    place.fill_(1)

    def forward(self, losses: Tensor, classes: Tensor | None = None) -> Tensor:
        """Weights [K, n] in 0..1 of losses [K, n]; with nets that have one output a class, of those classes [K, n]."""
        hidden = losses.unsqueeze(2)
        for layer in range(self._depth):
            weight, bias = self.layers[2 * layer], self.layers[2 * layer + 1]
            hidden = torch.baddbmm(bias, hidden, weight.mT)
            hidden = hidden.relu() if layer + 1 < self._depth else hidden.sigmoid()
        chosen = hidden if classes is None else hidden.gather(2, classes.unsqueeze(2))
        return chosen.squeeze(2)

    def views(self, row: int, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The parts of `tensors` (shaped like the parameters) that are net `row`'s, in the order of its parameters."""
        linears, parts = self._linears[row], []
        for number, linear in enumerate(linears):
            layer = self._depth - 1 if number + 1 == len(linears) else number
            rows, columns = linear.weight.shape
            parts += [tensors[2 * layer][row, :rows, :columns], tensors[2 * layer + 1][row, 0, :rows]]
        return parts

    def unload(self, row: int, net: nn.Module) -> None:
        """Copy the parameters of net `row` into `net`."""
        with torch.no_grad():
            for place, parameter in zip(self.views(row, list(self.layers)), net.parameters(), strict=True):
                parameter.copy_(place)

    def _pass_through(self, row: int) -> None:
        """Identities where net `row` has no layer."""
        linears = self._linears[row]
        width = linears[-1].in_features
        for layer in range(len(linears) - 1, self._depth - 1):
            self.layers[2 * layer][row].diagonal()[:width].fill_(1)


def _shape(linears: Sequence[nn.Linear], layer: int, depth: int) -> tuple[int, int]:
    """Outputs and inputs of a net at `layer` of the stack."""
    if layer + 1 == depth:
        return linears[-1].out_features, linears[-1].in_features
    if layer + 1 < len(linears):
        return linears[layer].out_features, linears[layer].in_features
    return linears[-1].in_features, linears[-1].in_features
