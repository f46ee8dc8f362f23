"""Carrying a learned weight net to other data: take it out of a run, keep it in a file, read it again.

The file is JSON that says what it is: shape, parameters, the experiment it was learned in, the range of losses seen,
and the weight net after every epoch. `method.name=frozen method.file=FILE` trains with it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from mwray.config import ConfigError
from mwray.data.sources import num_classes
from mwray.methods.learned_weight_net import LearnedWeightNet, WeightNetError
from mwray.records import Run, write_atomically
from mwray.train import checkpoint


def from_run(folder: Path | str) -> LearnedWeightNet:
    """The weight net of a Meta-Weight-Net run, from its newest checkpoint.

    Raises:
        RecordError: there is no run in this folder.
        WeightNetError: the run is of another method, or has no weight net yet.
    """
    folder = Path(folder)
    experiment = Run(folder).experiment()
    method = experiment["method"]
    if method["name"] != "mwnet":
        raise WeightNetError(f"{folder}: a run of {method['name']!r} learns no weight net; take one of 'mwnet'")
    state = checkpoint.latest(folder)
    if state is None or not state["method"]["trajectory"]:
        raise WeightNetError(f"{folder}: no epoch of this run has trained its weight net yet; let it run on")
    trajectory = torch.stack(state["method"]["trajectory"])
    low, high = state["method"]["loss_range"].tolist()
    shape, source = method["weight_net"]["shape"], experiment["data"]["source"]
    classes = num_classes(source) if method["weight_net"]["conditioning"] == "class" else None
    return LearnedWeightNet(shape, trajectory[-1], (low, high), trajectory, experiment, classes)


def save(learned: LearnedWeightNet, path: Path | str) -> Path:
    """Write `learned` to `path`, whole or not at all; makes its folder. Returns the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, learned.to_text().encode())
    return path


def keep(learned: LearnedWeightNet, folder: Path) -> Path:
    """Write `learned` into `folder` under a name made of its content, unless it is there already. Returns the path."""
    text = learned.to_text()
    path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    return path if path.exists() else save(learned, path)


def load(path: Path | str) -> LearnedWeightNet:
    """Read what `save` wrote.

    Raises:
        WeightNetError: there is no such file, or it is damaged, foreign or of another version; names the file.
    """
    try:
        return LearnedWeightNet.from_text(Path(path).read_text())
    except (WeightNetError, ConfigError, OSError, UnicodeDecodeError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error  # the rest would name the file again
        raise WeightNetError(f"{path} cannot be used: {why}") from error
