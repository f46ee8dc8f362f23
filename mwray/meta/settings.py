"""Settings of the weight net and of the meta step (no torch here: settings are checked before anything heavy loads)."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from mwray.config import checked, config
from mwray.models.settings import parse_shape


@config
class WeightNetSettings:
    """The net that maps a sample's loss to its weight, and its optimiser.

    The paper gives shape 1-100-1 and the rate 1e-3 and leaves the optimiser open; its released scripts use SGD with
    Nesterov momentum 0.9 and weight decay 5e-4 (2019) and Adam with weight decay 1e-4 (2020).
    """

    shape: Annotated[str, checked(parse_shape)] = "1-100-1"
    """Widths of the layers as the paper writes them; hidden layers are ReLU, the output is a sigmoid."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: Annotated[float, Gt(0)] = 1e-3
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    """SGD only; Nesterov's form, as in the released scripts."""
    weight_decay: Annotated[float, Ge(0)] = 5e-4
    conditioning: Literal["none", "class"] = "none"
    """Whether the weight also depends on the observed class, by an output of its own (after CMW-Net, TPAMI 2023)."""


@config
class MetaSettings:
    """How the weights of a batch are formed and what the look-ahead step is."""

    weight_map: Literal["normalized", "mean", "detached"] = "normalized"
    """eta_i of V_i = V(L_i): V_i / sum V with the sum in the graph (Eq. 40); V_i / n; V_i / sum V, sum detached."""
    tau: Annotated[float, Gt(0)] = 1.0
    """Divides in place of a sum that is exactly zero (Eq. 40 leaves its value open: it keeps 0/0 away, no more)."""
    look_ahead: Literal["sgd", "optimizer"] = "sgd"
    """The virtual step: plain SGD (Eq. 3), or the real optimiser's own step with its momentum and weight decay.
    Beside Adam, "sgd" is still Eq. 3, at Adam's rate: docs/tuning.md says what that means."""
    input: Literal["detached", "through"] = "detached"
    """In the virtual step, V(L_i) is a factor (Eq. 3), or a function of L_i that the gradient flows through, as in the
    released long-tail code. The actual step has factors either way, as in that code."""
    order: Literal["exact", "lagged"] = "exact"
    """exact: w moves by the weights of the weight net that has just moved (Algorithm 1). lagged: the look-ahead is the
    real step itself, so the weights are those from before the weight net's move, `look_ahead` says nothing and one
    backward pass is saved. A deviation from the paper; the order of EMLC (Taraday and Baskin, ICCV 2023)."""
    layers: Literal["all", "top"] = "all"
    """Parameters that the virtual step moves and Eq. 6 aligns: all (the paper), or those of the last stage alone (with
    order=lagged the real step moves all, and Eq. 6 aligns the last stage's). A deviation from the paper, after FaMUS
    (Xu et al., CVPR 2021), whose sampler picks few layers, most of them near the top."""
    every: Annotated[int, Gt(0)] = 1
    """Steps between two updates of the weight net; the steps between cost what plain training costs. The paper has 1,
    its authors' later code (CMW-Net) 10."""
    warm_up: Annotated[int, Ge(0)] = 0
    """Epochs of plain cross-entropy before the first weight (CMW-Net: 10 of 300 on CIFAR-10, 160 of 200 for long
    tails). The weight net starts to learn after them."""

    def __post_init__(self) -> None:
        if self.order == "lagged" and self.input == "through":
            raise ValueError(
                "order=lagged makes the look-ahead the real step, whose weights are factors, and input=through asks "
                "for another look-ahead; use order=exact or input=detached"
            )
