"""The paper's tables as studies: which methods in the rows, which biases in the columns.

Every row of a table has MW-Net's schedule, so that methods are compared on equal terms. Where the paper's own row has
another schedule, a row of ours has that one too and is held beside the same number of the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mwray.config import override
from mwray.experiment import Experiment
from mwray.reports.published import FLIP, IMBALANCE, SHAPES, TABLE5, TRANSFERRED, UNIFORM
from mwray.studies.presets import Preset, milestones, stretch, with_drops

Schedule = Callable[[Experiment], Experiment]


@dataclass(frozen=True)
class Row:
    """One method of a table."""

    name: str
    method: str
    values: Mapping[str, Any] = field(default_factory=dict)
    schedule: Schedule = lambda experiment: experiment
    beside: str = ""
    """The paper's row that it is held beside, where that has another name."""

    def experiment(self, column: Experiment, preset: Preset) -> Experiment:
        """The column's experiment with this method, at the column's seed."""
        defaults = preset.mwnet if self.method == "mwnet" else {}
        return self.schedule(override(column, {"method.name": self.method, **defaults, **self.values}))


@dataclass(frozen=True)
class Study:
    """Rows and columns; columns are biases of every data set of the preset."""

    name: str
    rows: tuple[Row, ...]
    biases: tuple[str, ...]
    transfer: bool = False
    """Learn on the preset's first data set, and compare on its last one."""
    two_networks: bool = False
    """Each bias on both of the preset's networks."""

    def columns(self, preset: Preset) -> list[tuple[str, str]]:
        """(data set, bias) pairs."""
        datasets = list(preset.datasets)[-1:] if self.transfer else list(preset.datasets)
        if not self.two_networks:
            return [(dataset, bias) for dataset in datasets for bias in self.biases]
        return [
            (dataset, f"{bias} ({network})")
            for dataset in datasets
            for network in preset.networks
            for bias in self.biases
        ]


def two_phases(experiment: Experiment) -> Experiment:
    """Each phase as long as a plain training (methods with two of them share the epochs by halves)."""
    return stretch(experiment, 2 * experiment.epochs)


def long(experiment: Experiment) -> Experiment:
    """L2RW's schedule: three times the epochs, drops after two thirds and five sixths (40,000 and 50,000 of 60,000)."""
    epochs = 3 * experiment.epochs
    optimizer = with_drops(stretch(experiment, epochs).optimizer, milestones(epochs, 2 / 3, 5 / 6))
    return replace(experiment, epochs=epochs, optimizer=optimizer)


def cui(experiment: Experiment) -> Experiment:
    """Cui et al.'s protocol: batch 128, twice the epochs, rate x 0.01 at 0.8 and 0.9, weight decay 2e-4, no hold-out.

    Their five epochs of rising learning rate are left out unless `optimizer.warm_up` asks for such. Another optimiser
    than their SGD keeps its weight decay, and another schedule its course.
    """
    epochs = 2 * experiment.epochs
    optimizer = with_drops(stretch(experiment, epochs).optimizer, milestones(epochs, 0.8, 0.9), factor=0.01)
    if optimizer.name == "sgd":
        optimizer = replace(optimizer, weight_decay=2e-4)
    data = replace(experiment.data, num_meta=0)
    return replace(experiment, batch_size=128, epochs=epochs, optimizer=optimizer, data=data)


BASE, MWNET, L2RW = Row("BaseModel", "base"), Row("MW-Net", "mwnet"), Row("L2RW", "l2rw")
FINE_TUNING = Row("Fine-tuning", "fine-tuning")
MENTORNET = Row("MentorNet", "mentornet", schedule=two_phases)
FOCAL1 = {"method.gamma": 1.0}  # gave Cui et al.'s row, which the paper prints
SIGMOID = {"method.form": "sigmoid", **FOCAL1}
RELEASED = {"method.weight_net.lr": 1e-5, "method.weight_net.optimizer": "sgd", "method.weight_net.weight_decay": 5e-4}

REPLAYED = Row(
    f"{TRANSFERRED}, trajectory",
    "frozen",
    {"data.num_meta": 0, "method.use": "trajectory"},
    beside=TRANSFERRED,
)
"""The paper does not say whether the final net is frozen or the one of each epoch is replayed: both are run."""

LONG_TAIL = (
    BASE,
    Row("BaseModel, Cui's protocol", "base", schedule=cui, beside="BaseModel"),
    Row("Focal", "focal", FOCAL1),
    Row("Focal, Cui's protocol", "focal", SIGMOID, cui, "Focal"),
    Row("Class-Balanced", "class-balanced"),
    Row("Class-Balanced, Cui's protocol", "class-balanced", schedule=cui, beside="Class-Balanced"),
    FINE_TUNING,
    L2RW,
    MWNET,
    Row("MW-Net, rate of the released code", "mwnet", {**RELEASED, "method.meta.input": "through"}, beside="MW-Net"),
)
NOISE = (
    BASE,
    Row("Reed-Hard", "reed"),
    Row("S-Model", "s-model"),
    Row("Self-paced", "self-paced"),
    Row("Focal", "focal"),
    Row("Co-teaching", "co-teaching"),
    Row("D2L", "d2l"),
    FINE_TUNING,
    MENTORNET,
    L2RW,
    Row("GLC", "glc", schedule=two_phases),
    MWNET,
)
ROWS = {row.method: row for row in NOISE}
"""The row of each method that the paper compares with under noise."""
LONG = (
    Row("BaseModel, long schedule", "base", schedule=long, beside="BaseModel"),
    Row("L2RW, long schedule", "l2rw", schedule=long, beside="L2RW"),
)

STUDIES: dict[str, Study] = {
    "1": Study("1", LONG_TAIL, IMBALANCE),
    "2": Study("2", NOISE + LONG, UNIFORM),
    "3": Study("3", NOISE, FLIP),
    "5": Study("5", tuple(Row(s, "mwnet", {"method.weight_net.shape": s}) for s in TABLE5.rows), SHAPES),
    "6": Study(
        "6",
        (BASE, MENTORNET, L2RW, MWNET, Row(TRANSFERRED, "frozen", {"data.num_meta": 0}), REPLAYED),
        (*IMBALANCE, *UNIFORM, *FLIP),
        transfer=True,
    ),
    "figure 4": Study("figure 4", NOISE, FLIP[1:], two_networks=True),
}
