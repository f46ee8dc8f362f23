"""Taking a training up again from what it left: a search's best.json, a run's folder, or its experiment.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mwray.config import ConfigError, read
from mwray.experiment import Experiment
from mwray.records import Run


@dataclass(frozen=True)
class Repeat:
    """A training, and what of its machine decided its last bits."""

    experiment: Experiment
    threads: int | None = None
    """CPU threads of the process; None: not known. Sums in another order end in other last bits."""
    workers: int = 1
    device: str | None = None
    """The name of its GPU, or "cpu"."""

    def differs(self, workers: int, device: str) -> str | None:
        """Why a training over `workers` on a device of type `device` will not have the same bits, or None."""
        if self.workers != workers:
            return f"it was trained over {self.workers} workers: --workers {self.workers} gives the same bits"
        if self.device is not None and (self.device == "cpu") != (device == "cpu"):
            return f"it was trained on {self.device}: here the last bits will differ"
        return None


def repeat(path: Path) -> Repeat:
    """Read what to train from a run's folder, a search's folder (its best trial), or one of their JSON files.

    Raises:
        ConfigError: there is no experiment in it; names the file and what would do.
    """
    for name in ("experiment.json", "best.json"):
        if path.is_dir() and (path / name).exists():
            path = path / name
    if path.is_dir():
        raise ConfigError(
            f"--from {path}: is neither the folder of a run (experiment.json) nor of a search (best.json)"
        )
    data = _json(path)
    nested = isinstance(data.get("experiment"), dict)
    try:
        experiment = read(Experiment, data["experiment"] if nested else data)
    except ConfigError as error:
        raise ConfigError("\n".join(f"--from {path}: {line}" for line in str(error).splitlines())) from None
    known = data.get("environment") if nested else last_start(path.parent)
    return Repeat(experiment, **_decisive(known or {}))


def last_start(folder: Path) -> dict[str, Any]:
    """The environment in which the run in `folder` was last started; {} where it is not known."""
    starts = Run(folder).starts()
    return dict(starts[-1]) if starts else {}


def _decisive(environment: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {name: environment[name] for name in ("threads", "workers") if name in environment}
    if "device" in environment:
        found["device"] = environment.get("device_name") or environment["device"]
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"--from {path}: {error.strerror or error}; give a run's folder or a best.json") from None
    except ValueError as error:  # no JSON, or not even text
        raise ConfigError(f"--from {path}: not readable as JSON ({error})") from None
    if not isinstance(data, dict):
        raise ConfigError(f"--from {path}: holds {type(data).__name__}, and an experiment is a mapping")
    return data
