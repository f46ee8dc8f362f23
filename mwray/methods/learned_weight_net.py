"""A weight net that was learned and is kept: what it is, where it comes from, and the text that says so."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import vector_to_parameters

from mwray.errors import UserError
from mwray.models.class_weight_net import ClassWeightNet
from mwray.models.weight_net import WeightNet

FORMAT = "mwray weight net"
VERSION = 1


class WeightNetError(UserError, ValueError):
    """A text that is not a weight net which can be used: says what is wrong with it."""


@dataclass(frozen=True)
class LearnedWeightNet:
    """A weight net V(L; theta), or V(L, y; theta), with its source."""

    shape: str  # "1-100-1"
    parameters: Tensor  # float32 [P], on the CPU, in the order of `parameters_to_vector`
    loss_range: tuple[float, float] | None = None  # smallest and largest loss that it was learned on, in nats
    trajectory: Tensor | None = None  # float32 [E, P]: after every epoch of its learning
    source: dict[str, Any] = field(default_factory=dict)  # the experiment that it was learned in, as plain data
    classes: int | None = None  # how many observed classes it tells apart; None: the weight depends on the loss alone

    def __post_init__(self) -> None:
        count = sum(p.numel() for p in self._empty().parameters())
        for name, vectors in (("parameters", self.parameters[None]), ("trajectory", self.trajectory)):
            if vectors is not None and (vectors.ndim != 2 or vectors.shape[1] != count or len(vectors) == 0):
                raise WeightNetError(
                    f"{name}: a weight net {self.shape!r} has {count} parameters, and {_size(vectors)} were given"
                )
            if vectors is not None and not bool(vectors.isfinite().all()):
                raise WeightNetError(f"{name}: all of them must be finite numbers")

    def _empty(self) -> WeightNet | ClassWeightNet:
        return WeightNet(self.shape) if self.classes is None else ClassWeightNet(self.shape, self.classes)

    def build(self, progress: float | None = None) -> WeightNet | ClassWeightNet:
        """The net as a module without gradients; as it was at `progress` (0..1) of its learning, None: in the end.

        It is called with losses [N], and with observed classes int64 [N] too where it tells classes apart.

        Raises:
            WeightNetError: `progress` is given and the trajectory was not kept.
        """
        vector = self.parameters
        if progress is not None:
            if self.trajectory is None:
                raise WeightNetError("it holds no trajectory, only the weight net of the last epoch")
            vector = self.trajectory[min(int(progress * len(self.trajectory)), len(self.trajectory) - 1)]
        net = self._empty()
        vector_to_parameters(vector, net.parameters())
        return net.requires_grad_(False)

    def scaled(self, factor: float) -> LearnedWeightNet:
        """The weight net that gives to a loss what this one gives to `factor` times it.

        The first layer is linear in the loss: its weights, the first of the parameters, take the factor up.

        Raises:
            WeightNetError: `factor` is not positive.
        """
        if factor == 1:
            return self
        if not factor > 0:
            raise WeightNetError(f"losses cannot be scaled by {factor}: a positive factor is needed")
        width = int(self.shape.split("-")[1])

        def scale(vectors: Tensor) -> Tensor:
            copy = vectors.clone()
            copy[..., :width] *= factor
            return copy

        seen = self.loss_range
        return replace(
            self,
            parameters=scale(self.parameters),
            trajectory=None if self.trajectory is None else scale(self.trajectory),
            loss_range=None if seen is None else (seen[0] / factor, seen[1] / factor),
        )

    def to_text(self) -> str:
        """JSON that says what it is, readable by eye, with a checksum; float32 survives to the bit."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "shape": self.shape,
            "loss_range": None if self.loss_range is None else list(self.loss_range),
            "source": self.source,
            "parameters": self.parameters.tolist(),
            "trajectory": None if self.trajectory is None else self.trajectory.tolist(),
        }
        if self.classes is not None:
            content["classes"] = self.classes
        return json.dumps({**content, "checksum": _checksum(content)}) + "\n"

    @classmethod
    def from_text(cls, text: str) -> LearnedWeightNet:
        """Read what `to_text` gave.

        Raises:
            WeightNetError: something else, another version, or damaged.
        """
        content = _checked(text)
        try:
            low_high, trajectory = content["loss_range"], content["trajectory"]
            return cls(
                shape=str(content["shape"]),
                parameters=torch.tensor(content["parameters"], dtype=torch.float32),
                loss_range=None if low_high is None else (float(low_high[0]), float(low_high[1])),
                trajectory=None if trajectory is None else torch.tensor(trajectory, dtype=torch.float32),
                source=dict(content["source"]),
                classes=content.get("classes"),
            )
        except (KeyError, TypeError, IndexError) as error:
            raise WeightNetError(f"incomplete: {error!r}") from error


def _checked(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text, parse_constant=lambda name: math.nan)
    except json.JSONDecodeError as error:
        raise WeightNetError(f"not a weight net, or cut short: not JSON ({error.msg}, line {error.lineno})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise WeightNetError(f"not a weight net: JSON of another kind, without format={FORMAT!r}")
    if content.get("version") != VERSION:
        raise WeightNetError(
            f"written in version {content.get('version')!r} of the format, and this mwray reads version {VERSION}; "
            "write it again with this one"
        )
    if content.pop("checksum", None) != _checksum(content):
        raise WeightNetError("damaged: its content does not fit its checksum")
    return content


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _size(vectors: Tensor) -> str:
    return f"{vectors.shape[-1]}" if vectors.ndim == 2 else f"an array of shape {list(vectors.shape)}"
