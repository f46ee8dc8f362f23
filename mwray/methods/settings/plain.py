"""Settings of the methods that see the biased labels alone."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from mwray.config import config


@config
class BaseModelSettings:
    """Plain cross-entropy on the biased labels."""

    name: Literal["base"] = "base"


@config
class FocalSettings:
    """Focal loss (Lin et al., ICCV 2017)."""

    name: Literal["focal"] = "focal"
    gamma: Annotated[float, Ge(0)] = 2.0
    """Power of 1 - p. Lin et al. use 2; Cui et al. try 0.5, 1 and 2 on long tails, and 1 gave Table 1's row."""
    form: Literal["softmax", "sigmoid"] = "softmax"
    """One softmax over the classes, or one binary loss per class, as in Cui et al."""


@config
class ClassBalancedSettings:
    """Class-Balanced loss (Cui et al., CVPR 2019)."""

    name: Literal["class-balanced"] = "class-balanced"
    beta: Annotated[float, Ge(0), Lt(1)] = 0.9999
    """0 weighs all classes alike, near 1 by the inverse of their size. Cui et al. try 0.9, 0.99, 0.999 and 0.9999."""
    loss: Literal["softmax", "sigmoid", "focal"] = "softmax"
    """The loss that the weights multiply; "focal" is the sigmoid form, as in Cui et al."""
    gamma: Annotated[float, Ge(0)] = 1.0
    """Power of the focal loss; other losses do not read it."""


@config
class ReedSettings:
    """Bootstrapping (Reed et al., ICLR 2015 workshop)."""

    name: Literal["reed"] = "reed"
    form: Literal["hard", "soft"] = "hard"
    """The guess is the likeliest class, or the predicted probabilities."""
    beta: Annotated[float, Ge(0), Le(1)] | None = None
    """Trust in the label; the rest goes to the guess. None: 0.8 for "hard", 0.95 for "soft", as in the paper."""


@config
class SModelSettings:
    """S-Model: a noise-adaptation layer (Goldberger and Ben-Reuven, ICLR 2017)."""

    name: Literal["s-model"] = "s-model"
    form: Literal["simple", "complex"] = "simple"
    """One transition matrix for all images, or one that also depends on the image's features."""
    first_epochs: Annotated[int, Gt(0)] | None = None
    """Epochs of plain training before the layer is put on; None: until the loss on a tenth of the training images, held
    out of this phase with their observed labels, has stopped falling, half of the run at most. They are part of the
    run's `epochs`, so the whole costs one plain training and one pass over the training set."""
    patience: Annotated[int, Gt(0)] = 4
    """Epochs without a lower loss after which a first phase of open length is over (4 in the authors' code)."""
    counts: Literal["hard", "soft"] = "hard"
    """The layer starts from counts of predicted classes, or from sums of predicted probabilities."""


@config
class SelfPacedSettings:
    """Self-paced learning (Kumar et al., NeurIPS 2010) with a moving percentile of the loss as its pace."""

    name: Literal["self-paced"] = "self-paced"
    percentile: Annotated[float, Gt(0), Le(1)] = 0.7
    """Share of a batch whose losses lie below the threshold, at the start."""
    last_percentile: Annotated[float, Gt(0), Le(1)] | None = None
    """The same at the end of the ramp, which is linear over epochs; None: no ramp."""
    ramp_epochs: Annotated[int, Gt(0)] | None = None
    """Length of the ramp; None: the whole run."""
    decay: Annotated[float, Ge(0), Lt(1)] = 0.5
    """Of the moving average of the threshold, per step."""
    form: Literal["hard", "linear"] = "hard"
    """Weight 1 below the threshold and 0 above, or falling linearly from 1 at loss 0 to 0 at the threshold."""
    burn_in: Annotated[int, Ge(0)] | None = None
    """First epochs in which every sample counts fully; None: a twentieth of the run, one epoch at least. MentorNet's
    code has 0: then classes that the random start finds hard may never enter (on digits: worse than BaseModel)."""

    def __post_init__(self) -> None:
        if self.ramp_epochs is not None and self.last_percentile is None:
            raise ValueError("ramp_epochs is given without last_percentile: say where the ramp ends, or leave both out")


@config
class CoTeachingSettings:
    """Co-teaching: two networks choose each other's samples (Han et al., NeurIPS 2018)."""

    name: Literal["co-teaching"] = "co-teaching"
    forget_rate: Annotated[float, Ge(0), Lt(1)] | None = None
    """Share of a batch that is left out in the end (tau). None: the share of wrong training labels, which the paper
    takes for known: an oracle, so give a number where the true labels are not at hand."""
    ramp_epochs: Annotated[int, Gt(0)] = 10
    """Epochs until that share is reached (T_k)."""
    exponent: Annotated[float, Gt(0)] = 1.0
    """Shape of the rise (c)."""
    optimizer: Literal["experiment", "adam"] = "experiment"
    """The experiment's optimiser and schedule, as every other method, or the published Adam: 0.001, from two fifths of
    the epochs on falling linearly to 0 with a first moment of 0.1 in place of 0.9."""


@config
class D2LSettings:
    """Dimensionality-driven learning (Ma et al., ICML 2018)."""

    name: Literal["d2l"] = "d2l"
    init_epochs: Annotated[int, Ge(0)] | None = None
    """Epochs before the search for the turning point may begin; None: a tenth of the run. The authors' code has 10,
    20 and 40 of 120 on CIFAR-10 in successive versions."""
    window: Annotated[int, Gt(1)] = 5
    """Past epochs that an epoch's dimension is held against."""
    neighbours: Annotated[int, Gt(1)] = 20
    """Nearest neighbours in the estimate of the dimension (k)."""
    lid_samples: Annotated[int, Gt(0)] = 1280
    """Training images that the dimension is estimated from, at most."""
    lid_batch: Annotated[int, Gt(2)] = 128
    """Images among which neighbours are looked for."""

    def __post_init__(self) -> None:
        if self.lid_batch <= self.neighbours:
            raise ValueError(
                f"lid_batch is {self.lid_batch}, and {self.neighbours} neighbours need at least {self.neighbours + 1}"
            )
