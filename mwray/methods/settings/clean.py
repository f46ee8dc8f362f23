"""Settings of the methods that also learn from a few clean images, or from what was learned from them."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from mwray.config import config
from mwray.meta.settings import MetaSettings, WeightNetSettings


@config
class MWNetSettings:
    """Meta-Weight-Net."""

    name: Literal["mwnet"] = "mwnet"
    weight_net: WeightNetSettings = WeightNetSettings()
    meta: MetaSettings = MetaSettings()


@config
class L2RWSettings:
    """Learning to reweight examples (Ren et al., ICML 2018): it has no hyper-parameter."""

    name: Literal["l2rw"] = "l2rw"


@config
class MetaOnlySettings:
    """Plain training on the clean meta images alone: the control that any use of biased labels has to beat."""

    name: Literal["meta-only"] = "meta-only"


@config
class FineTuningSettings:
    """BaseModel first, then plain training on the clean meta images (the paper leaves all of it open)."""

    name: Literal["fine-tuning"] = "fine-tuning"
    first_epochs: Annotated[int, Gt(0)] | None = None
    """Epochs of BaseModel, in which the schedule of learning rates runs through; the rest of the run fine-tunes. None:
    nine tenths. L2RW's code: 60,000 steps, then 5,000. Both are part of `epochs`: the whole costs one training."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Learning rate of the fine-tuning: the schedule's last one in the paper (0.1 divided by 10 twice)."""


@config
class GLCSettings:
    """Gold loss correction (Hendrycks et al., NeurIPS 2018)."""

    name: Literal["glc"] = "glc"
    first_epochs: Annotated[int, Gt(0)] | None = None
    """Epochs of plain training that the corruption matrix is read from; then training starts again. None: half. Each
    phase runs through the schedule; published, each is as long as a plain training, so with twice the epochs."""


@config
class ForwardSettings:
    """Forward correction (Patrini et al., CVPR 2017)."""

    name: Literal["forward"] = "forward"
    matrix: Literal["estimated", "true", "given"] = "estimated"
    """Estimated in a first phase; the one that the labels were drawn from (an oracle); or `transition`."""
    transition: tuple[tuple[Annotated[float, Ge(0), Le(1)], ...], ...] | None = None
    """For "given": one row per true class, the probabilities of each observed class."""
    percentile: Annotated[float, Gt(0), Le(1)] = 0.97
    """The image that stands for a class is the likeliest one below this percentile. The authors take 1, the very
    likeliest, on CIFAR-100."""
    first_epochs: Annotated[int, Gt(0)] | None = None
    """For "estimated": epochs of plain training that the matrix is read from, before training starts again. None:
    half of the run. Each phase runs through the schedule; published, each is as long as a plain training."""

    def __post_init__(self) -> None:
        if (self.matrix == "given") != (self.transition is not None):
            raise ValueError(
                "transition goes with matrix='given': "
                + ("give its rows" if self.transition is None else f"leave it out with matrix={self.matrix!r}")
            )
        if self.first_epochs is not None and self.matrix != "estimated":
            raise ValueError(f"first_epochs is for matrix='estimated', and matrix is {self.matrix!r}")
        size = len(self.transition or ())
        for number, row in enumerate(self.transition or ()):
            if len(row) != size or abs(sum(row) - 1) > 1e-6:
                raise ValueError(
                    f"transition: row {number} must hold {size} probabilities that sum to one, and is {list(row)}"
                )


@config
class MentorNetSettings:
    """MentorNet (Jiang et al., ICML 2018)."""

    name: Literal["mentornet"] = "mentornet"
    curriculum: Literal["predefined", "data-driven"] = "data-driven"
    """A fixed rule, which needs no clean images; or a net that has learned which losses belong to wrong labels."""
    percentile: Annotated[float, Gt(0), Lt(1)] | None = None
    """Of the batch's losses, that a loss is held against. None: 0.75 predefined, 0.6 data-driven (their code has 0.8,
    0.6 and 0.5 for 20, 40 and 80 % noise)."""
    decay: Annotated[float, Ge(0), Lt(1)] = 0.5
    """Of the moving average of that percentile, per step."""
    gamma: Annotated[float, Gt(0)] = 1.0
    """Predefined: width in nats over which a weight falls from 1 to 0 in the last tenth of the run."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.5
    """Share of samples whose weight is set to zero at random at the start, and (next field) later."""
    late_dropout: Annotated[float, Ge(0), Lt(1)] = 0.05
    dropout_until: Annotated[float, Ge(0), Le(1)] = 0.17
    """Share of the run after which the second one holds."""
    burn_in: Annotated[float, Ge(0), Lt(1)] = 0.18
    """Share of the run in which every weight is one; afterwards the data-driven mentor is told that it is still there,
    as in their code."""
    wrong_share: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Data-driven: share of the clean images that are given a wrong label for the mentor to learn from."""
    wrong_labels: Literal["same", "uniform"] = "same"
    """Data-driven: drawn from the wrong entries of the transition that the training labels were drawn from, which
    takes the noise process for known as their experiments do, or from all other classes alike."""
    first_epochs: Annotated[int, Gt(0)] | None = None
    """Data-driven: epochs in which a student is trained without weights, for the mentor to look at, before training
    starts again. None: half of the run. Each phase runs through the schedule."""

    def __post_init__(self) -> None:
        if self.first_epochs is not None and self.curriculum == "predefined":
            raise ValueError("first_epochs is for curriculum='data-driven': the predefined one has a single phase")


@config
class FrozenSettings:
    """A weight net learned elsewhere, kept as it is (Shu et al. 2019, section 4.4 and Table 6)."""

    name: Literal["frozen"] = "frozen"
    file: str | None = None
    """A file that `mwray.transfer.save` wrote, also looked for in the folders of $MWRAY_WEIGHT_NETS. The fingerprint
    holds its name alone: do not change it in place."""
    shape: str | None = None
    """In place of a file: the shape of the weight net, "1-100-1", with its `parameters`."""
    parameters: tuple[float, ...] | None = None
    """All weights and biases, layer by layer, as `torch.nn.utils.parameters_to_vector` puts them."""
    use: Literal["final", "trajectory"] = "final"
    """The weight net as it was in the end, or in every epoch the one of as far through the source's run. The paper
    does not say which; "final" is the natural reading."""
    weight_map: Literal["normalized", "mean"] = "normalized"
    """eta_i of V_i = V(L_i): V_i / sum V (Eq. 40) or V_i / n."""
    tau: Annotated[float, Gt(0)] = 1.0
    """Divides in place of a sum that is exactly zero."""

    def __post_init__(self) -> None:
        if (self.file is None) == (self.parameters is None) or (self.shape is None) != (self.parameters is None):
            raise ValueError("give either file, or shape and parameters: the weight net that is to be used")
        if self.use == "trajectory" and self.file is None:
            raise ValueError("use='trajectory' needs a file: parameters are those of one weight net")
