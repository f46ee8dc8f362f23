"""At which size a study is run: the paper's protocol, real CIFAR cut for a CPU, or digits in minutes.

A preset turns a column of a table ("flip 40 %") into an experiment with MW-Net's defaults for that size; the rows of
`mwray.studies.tables` put their methods in.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

from mwray.config import ConfigError, override
from mwray.experiment import Experiment
from mwray.optim import OptimizerSettings
from mwray.recipes import digits, noise
from mwray.reports.published import CIFAR10, CIFAR100


@dataclass(frozen=True)
class Bias:
    """A column's bias in numbers."""

    kind: str  # "imbalance", "uniform" or "flip"
    level: float  # largest class over smallest, or rate 0..1
    network: str | None = None  # None: the table's own

    @classmethod
    def of(cls, text: str) -> Bias:
        """Read "imbalance 100", "flip 40 %" or "flip 40 % (resnet32)".

        Raises:
            ConfigError: it is none of these.
        """
        match = re.fullmatch(r"(imbalance|uniform|flip) (\d+)( %)?(?: \((.+)\))?", text)
        if match is None or (match[1] == "imbalance") == bool(match[3]):
            raise ConfigError(f"{text!r} is not a bias: write 'imbalance 100', 'uniform 40 %' or 'flip 40 %'")
        return cls(match[1], int(match[2]) / (100 if match[3] else 1), match[4])

    def settings(self) -> dict[str, Any]:
        """The fields of the experiment that say it; no noise at all is noise "none", whatever its kind."""
        imbalance = self.level if self.kind == "imbalance" else 1.0
        rate = 0.0 if self.kind == "imbalance" else self.level
        kind = {"uniform": "uniform", "flip": "flip2"}.get(self.kind, "none") if rate else "none"
        values = {"data.bias.noise": kind, "data.bias.rate": rate, "data.bias.imbalance": imbalance}
        return values if self.network is None else values | {"model.name": self.network}


class Preset(ABC):
    """A size of study. Abstract or final."""

    name: str
    says: str
    """What a reader of its tables has to know: what was cut."""
    datasets: Mapping[str, str]
    """Data set as tables name it, and its `data.source`."""
    networks: tuple[str, str]
    """The two networks of figure 4, the larger one first."""
    mwnet: Mapping[str, Any] = {}
    """Settings of MW-Net where they are not the defaults."""

    @abstractmethod
    def experiment(self, dataset: str, bias: Bias) -> Experiment:
        """The experiment of a column, with seed 0 and MW-Net."""

    def possible(self, dataset: str, bias: Bias) -> bool:
        """Whether the data set has images enough for that bias."""
        return True


ADAM: Mapping[str, Any] = {
    "method.weight_net.optimizer": "adam",
    "method.weight_net.lr": 3e-3,
    "method.weight_net.weight_decay": 1e-4,
}
"""Of weight nets in some hundred steps, in which the paper's SGD at 1e-3 hardly leaves its start."""


@final
@dataclass(frozen=True)
class Paper(Preset):
    """Section 4 of the paper: a GPU, or a cluster of them."""

    name: str = "paper"
    says: str = "The paper's protocol: batch 100, its epochs and schedule, all of CIFAR."
    datasets: Mapping[str, str] = field(default_factory=lambda: {CIFAR10: "cifar10", CIFAR100: "cifar100"})
    networks: tuple[str, str] = ("wrn28-10", "resnet32")

    def experiment(self, dataset: str, bias: Bias) -> Experiment:
        """Ten clean images a class for long tails; 1,000 in all for noise (paper, section 4)."""
        start = {"imbalance": noise.cifar10_longtail, "uniform": noise.cifar10_uniform, "flip": noise.cifar10_flip}
        meta = 100 if bias.kind == "imbalance" and dataset == CIFAR10 else 1000
        source = {"data.source": self.datasets[dataset], "data.num_meta": meta}
        return override(start[bias.kind](), source | bias.settings())


@final
@dataclass(frozen=True)
class Reduced(Preset):
    """Real CIFAR at a size that two cores finish overnight, small enough for wrong labels to be learned by heart.

    Chosen by BaseModel's accuracy on its own observed training labels under 40 % flip noise, not by test images: a
    larger network on more images sees each of them too seldom on a CPU to learn one wrong label.
    """

    name: str = "reduced"
    says: str = (
        "Real CIFAR, cut: ResNet-8 for every table, 2,000 training images (long tails are cut from 5,000 of CIFAR-10 "
        "and 20,000 of CIFAR-100), 500 meta images (100 for tails of CIFAR-10), 2,000 test images, batches of 50, no "
        "augmentation, 30 epochs with the drops as far through them as in the paper; weight nets learn with Adam at "
        "3e-3. Accuracies are far below the paper's; what can be compared is the order of the methods."
    )
    datasets: Mapping[str, str] = field(default_factory=lambda: {CIFAR10: "cifar10", CIFAR100: "cifar100"})
    networks: tuple[str, str] = ("resnet20", "resnet8")
    mwnet: Mapping[str, Any] = field(default_factory=lambda: ADAM)

    def experiment(self, dataset: str, bias: Bias) -> Experiment:
        """The paper's experiment with fewer images and epochs, and a smaller network."""
        # A tail of 1:200 needs 200 images in the largest class: 20,000 of CIFAR-100's are just that.
        tail = 20_000 if dataset == CIFAR100 else 5_000
        cut = {
            "data.num_train": tail if bias.kind == "imbalance" and bias.level > 1 else 2_000,
            "data.num_test": 2_000,
            "data.num_meta": 100 if bias.kind == "imbalance" and dataset == CIFAR10 else 500,
            "data.augment": False,
            "model.name": bias.network or "resnet8",
            "batch_size": 50,
            "meta_batch_size": 50,
        }
        return stretch(override(Paper().experiment(dataset, bias), cut), 30)


@final
@dataclass(frozen=True)
class Digits(Preset):
    """scikit-learn's digits: every study in minutes, nothing to download."""

    name: str = "digits"
    says: str = (
        "scikit-learn's digits (1,797 handwritten digits, 8x8) and a small convolutional net, 20 epochs: not the "
        "paper's data, so that its numbers do not stand beside ours."
    )
    datasets: Mapping[str, str] = field(default_factory=lambda: {"digits": "digits"})
    networks: tuple[str, str] = ("small", "mlp")

    def experiment(self, dataset: str, bias: Bias) -> Experiment:
        """Half the epochs of the recipe. No validation images are held out: nothing is selected, and tails need all."""
        meta = 50 if bias.kind == "imbalance" else 100
        cut = {"data.num_validation": 0, "data.num_meta": meta}
        return stretch(override(digits.uniform(), cut | bias.settings()), 20)

    def possible(self, dataset: str, bias: Bias) -> bool:
        """A class has some 120 training images."""
        return bias.kind != "imbalance" or bias.level <= 100


PRESETS: dict[str, Preset] = {preset.name: preset for preset in (Paper(), Reduced(), Digits())}


def stretch(experiment: Experiment, epochs: int) -> Experiment:
    """The same schedule in so many epochs: drops stay as far through the run as they were, and so does a warm-up."""
    before = experiment.optimizer
    drops = milestones(epochs, *(milestone / experiment.epochs for milestone in before.milestones))
    warm_up = min(round(before.warm_up * epochs / experiment.epochs), epochs - 1)
    return replace(experiment, epochs=epochs, optimizer=replace(before, milestones=drops, warm_up=warm_up))


def with_drops(optimizer: OptimizerSettings, drops: Sequence[int], factor: float | None = None) -> OptimizerSettings:
    """`optimizer` with drops of the rate at these epochs; a cosine, which has none, stays as it is."""
    if optimizer.schedule != "steps":
        return optimizer
    return replace(optimizer, milestones=tuple(drops), factor=optimizer.factor if factor is None else factor)


def milestones(epochs: int, *shares: float) -> tuple[int, ...]:
    """The epochs that are these shares of a run, rounded down; in a short run several become one.

    The last is an epoch before the end at least: the last rate is used for an epoch, however short the run.
    """
    found = {min(int(share * epochs + 1e-9), epochs - 1) for share in shares}
    return tuple(sorted(found - {0}))
