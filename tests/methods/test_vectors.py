"""The contract's methods and forms on feature vectors: none of them needs its samples to be images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import mwray
from mwray.config import override
from mwray.experiment import Experiment
from mwray.methods.registry import METHODS
from mwray.recipes import recipe
from mwray.records import Run
from mwray.train.loop import train
from mwray.train.suspects import restored
from mwray.worker import LocalWorker
from tests.methods.lockstep import LockstepWorker, together
from tests.methods.setups import same
from tests.methods.test_contract import CASES, bits, close, label, session_in
from tests.train.stopping import Stopped, Stopping

SMALL = {
    "data.source": "tests.data.own_sets:vectors",
    "data.num_meta": 6,
    "data.num_validation": 0,
    "model.name": "mlp",
    "epochs": 6,
    "batch_size": 20,
    "optimizer.milestones": [5],
}
OWN: dict[str, dict[str, Any]] = {"co-teaching": {"method.forget_rate": 0.2}}  # nobody knows how many labels are wrong

every_case = pytest.mark.parametrize("case", [case for case in CASES if case.get("method.matrix") != "true"], ids=label)


def experiment(case: dict[str, Any], **values: Any) -> Experiment:
    return override(recipe("own"), SMALL | OWN.get(case["method.name"], {}) | case | values)


@every_case
def test_it_learns_goes_on_after_a_stop_and_is_loaded_again(tmp_path: Path, case: dict[str, Any]) -> None:
    whole = experiment(case)
    summary = train(whole, tmp_path / "a", worker=LocalWorker("cpu"))
    assert summary["test.last"] > 0.5  # chance is a third, and meta-only has six vectors
    with pytest.raises(Stopped):
        train(whole, tmp_path / "b", worker=Stopping(3))
    train(whole, tmp_path / "b", worker=LocalWorker("cpu"))
    assert same(bits(tmp_path / "a"), bits(tmp_path / "b"))
    session = restored(tmp_path / "a", "cpu")
    (batch,) = session.test.in_order(1000)
    logits = mwray.load(tmp_path / "a", "cpu")(session.splits.test.images)
    assert torch.equal(logits, session.method.predict(batch.x))


@pytest.mark.parametrize("case", CASES[: len(METHODS)], ids=label)
def test_two_workers_are_one_process(tmp_path: Path, case: dict[str, Any]) -> None:
    settings = experiment(case, epochs=2, **{"optimizer.milestones": [1], "model.name": "linear"})
    alone = session_in(tmp_path / "alone", settings)
    alone.run(2)

    def work(worker: LockstepWorker) -> Any:
        session = session_in(tmp_path / "team", settings, worker)
        session.run(2)
        return session.method.state()

    first, second = together(2, work)
    assert same(first, second)
    close(first, alone.method.state())
    ours, theirs = (Run(tmp_path / name).records()[-1] for name in ("team", "alone"))
    assert ours["test.accuracy"] == theirs["test.accuracy"]
