"""What every method promises, asked of every one in the registry; no test knows a method by name.

A new method is tested by being in METHODS. Tables say what a method cannot do without (NEEDED), which further forms of
it are worth the same questions (FORMS), and where the mathematics of two workers is another one (UNEQUAL, with why).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mwray import lock
from mwray.config import ConfigError, fingerprint, leaves, override, read, to_dict
from mwray.experiment import Experiment
from mwray.methods.base import Step
from mwray.methods.registry import METHODS
from mwray.recipes import recipe
from mwray.records import Run
from mwray.train import checkpoint
from mwray.train.evaluate import evaluate
from mwray.train.loop import Session, train
from mwray.worker import LocalWorker
from tests.methods.lockstep import LockstepWorker, together
from tests.methods.setups import same
from tests.train.stopping import Stopped, Stopping

EPOCHS = 4
SMALL = {
    "epochs": EPOCHS,
    "batch_size": 50,
    "meta_batch_size": 50,
    "optimizer.milestones": [3],
    "data.num_train": 200,
    "data.num_meta": 50,
    "data.num_validation": 0,
    "data.num_test": 100,
    "data.bias.rate": 0.2,
}
NEEDED: dict[str, dict[str, Any]] = {
    "frozen": {"method.shape": "1-2-1", "method.parameters": [1.0, -0.5, 0.1, 0.2, -1.0, 0.5, 1.0]},
}
FORMS: list[dict[str, Any]] = [
    {"method.name": "focal", "method.form": "sigmoid"},
    {"method.name": "class-balanced", "method.loss": "focal"},
    {"method.name": "reed", "method.form": "soft"},
    {"method.name": "s-model", "method.form": "complex", "method.counts": "soft"},
    {"method.name": "self-paced", "method.form": "linear", "method.last_percentile": 1.0},
    {"method.name": "co-teaching", "method.optimizer": "adam", "method.forget_rate": 0.2, "method.ramp_epochs": 2},
    {"method.name": "d2l", "method.init_epochs": 0, "method.window": 2, "method.neighbours": 5},
    {"method.name": "mentornet", "method.curriculum": "predefined"},
    {"method.name": "forward", "method.matrix": "true"},
    {"method.name": "mwnet", "method.meta.input": "through", "method.weight_net.conditioning": "class"},
]
UNEQUAL: dict[str, str] = {}  # by label: none at present

CASES = [{"method.name": name, **NEEDED.get(name, {})} for name in METHODS] + FORMS


def label(case: dict[str, Any]) -> str:
    return "-".join(str(value) for value in case.values() if isinstance(value, str))


every_case = pytest.mark.parametrize("case", CASES, ids=label)
every_method = pytest.mark.parametrize("case", CASES[: len(METHODS)], ids=label)
# Whole runs: those of the further forms only where time is no matter.
every_run = pytest.mark.parametrize(
    "case", [*CASES[: len(METHODS)], *(pytest.param(form, marks=pytest.mark.slow) for form in FORMS)], ids=label
)


def experiment(case: dict[str, Any], **values: Any) -> Experiment:
    return override(recipe("digits"), SMALL | case | {name.replace("__", "."): v for name, v in values.items()})


def session_in(folder: Path, settings: Experiment, worker: LocalWorker | None = None) -> Session:
    """A session as `train` makes one, in a folder that is held."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / lock.NAME).touch()
    return Session(settings, folder, worker or LocalWorker("cpu"), ())


def bits(folder: Path) -> tuple[str, Any]:
    """All that a run leaves but the clock."""
    clock = ("seconds", "images_per_second")
    records = [{k: v for k, v in record.items() if k not in clock} for record in Run(folder).records()]
    return json.dumps(records), checkpoint.latest(folder)


@pytest.fixture(autouse=True)
def _random_state():
    with torch.random.fork_rng():
        yield


@every_run
def test_same_seed_same_bits_and_a_stop_after_each_epoch_changes_nothing(tmp_path, case):
    whole = experiment(case)
    train(whole, tmp_path / "a", worker=LocalWorker("cpu"))
    for _ in range(EPOCHS):
        with pytest.raises(Stopped):
            train(whole, tmp_path / "b", worker=Stopping(1))
    train(whole, tmp_path / "b", worker=LocalWorker("cpu"))
    assert same(bits(tmp_path / "a"), bits(tmp_path / "b"))


@every_run
def test_it_learns(tmp_path, case):
    session = session_in(tmp_path, experiment(case, epochs=8, data__num_train=400))
    before = evaluate(session.method.predict, session.train, 10)
    summary = session.run(8)
    after = evaluate(session.method.predict, session.train, 10)
    assert after.loss < 0.8 * before.loss
    assert summary["test.last"] > 0.4  # chance is 0.1


@every_case
def test_another_seed_gives_another_run(case, tmp_path):
    states = []
    for seed in (0, 1):
        session = session_in(tmp_path, experiment(case, seed=seed, epochs=EPOCHS))
        states.append(session.method.state())
    assert not same(*states)


@every_case
def test_settings_survive_json(case):
    settings = experiment(case)
    again = read(Experiment, json.loads(json.dumps(to_dict(settings))))
    assert again == settings
    assert fingerprint(again) == fingerprint(settings)


@every_case
def test_a_step_shows_what_it_should_and_the_state_is_plain(case, tmp_path):
    session = session_in(tmp_path, experiment(case))
    method = session.method
    for epoch in range(EPOCHS):
        method.epoch_start(epoch)
        for batch, meta in session._batches(epoch):
            check_step(method.update(batch, meta))
        method.epoch_end(epoch)
        numbers, arrays = method.findings()
        assert all(isinstance(value, float) for value in numbers.values())
        assert all(array.isfinite().all() and not array.requires_grad for array in arrays.values())
        assert all(a.shape == (10, 10) for name, a in arrays.items() if name.startswith("transition"))
        check_plain(method.state())
        torch.save(method.state(), tmp_path / "state.pt")
        assert same(torch.load(tmp_path / "state.pt", weights_only=True), method.state())


def check_step(step: Step) -> None:
    assert step.logits.shape == (50, 10)
    assert step.losses.shape == (50,)
    per_sample = [step.logits, step.losses] + ([] if step.weights is None else [step.weights])
    for tensor in per_sample:
        assert len(tensor) == 50
        assert tensor.isfinite().all() and not tensor.requires_grad
    if step.weights is not None:
        assert step.weights.shape == (50,)
        assert (step.weights >= 0).all()
    for name, value in step.scalars.items():
        assert value.shape == () and value.isfinite() and not value.requires_grad, name


def check_plain(state: object) -> None:
    if isinstance(state, dict):
        assert all(isinstance(name, str | int) for name in state)
        state = list(state.values())
    if isinstance(state, list | tuple):
        for item in state:
            check_plain(item)
    else:
        assert state is None or isinstance(state, torch.Tensor | str | int | float), type(state)
        assert not (isinstance(state, torch.Tensor) and state.requires_grad and not state.is_leaf)


@every_case
def test_predictions_are_those_of_evaluation_mode(case, tmp_path):
    session = session_in(tmp_path, experiment(case))
    session.run(EPOCHS)
    method, state = session.method, json.dumps(repr(session.method.state()))
    x = next(session.test.in_order(60)).x
    logits = method.predict(x)
    assert logits.shape == (60, 10)
    assert not logits.requires_grad
    assert torch.equal(logits, method.predict(x))
    # One image alone gets what it gets among others: no batch statistics.
    torch.testing.assert_close(method.predict(x[:1])[0], logits[0], rtol=1e-4, atol=1e-4)
    assert json.dumps(repr(method.state())) == state


def assert_two_workers_are_one_process(settings: Experiment, tmp_path: Path) -> None:
    """Train in tmp_path / "alone" and in tmp_path / "team": two workers agree to the bit, and with one to rounding."""
    alone = session_in(tmp_path / "alone", settings)
    alone.run(EPOCHS)

    def work(worker: LockstepWorker) -> Any:
        session = session_in(tmp_path / "team", settings, worker)
        session.run(EPOCHS)
        return session.method.state()

    first, second = together(2, work)
    assert same(first, second)
    close(first, alone.method.state())


@every_method
@pytest.mark.parametrize("field", ["data.num_meta", "epochs"])
def test_it_trains_without_clean_images_and_for_one_epoch_or_says_which_field_is_at_fault(case, field, tmp_path):
    least = {"data.num_meta": 0, "epochs": 1}
    settings = override(experiment(case), {field: least[field]})
    try:
        train(settings, tmp_path / "run", worker=LocalWorker("cpu"))
    except ConfigError as error:
        assert field in str(error)
        assert not (tmp_path / "run").exists()
    else:
        assert Run(tmp_path / "run").state == "done"


@every_case
def test_impossible_settings_are_refused_by_name(case):
    settings = experiment(case)
    for name in leaves(settings.method):
        with pytest.raises(ConfigError, match=f"method.{name}"):
            override(settings, {f"method.{name}": {"impossible": 1}})
    with pytest.raises(ConfigError, match="method.no_such_field: there is no such field"):
        override(settings, {"method.no_such_field": 1})


@every_run
def test_two_workers_are_one_process(case, tmp_path, request):
    """To rounding, on a network without batch norm: with it, each worker normalises by its own part of a batch."""
    if label(case) in UNEQUAL:
        request.applymarker(pytest.mark.xfail(reason=UNEQUAL[label(case)], strict=True))
    settings = experiment(case, model__name="mlp")
    assert_two_workers_are_one_process(settings, tmp_path)
    records = zip(Run(tmp_path / "team").records(), Run(tmp_path / "alone").records(), strict=True)
    for ours, theirs in records:
        names = [name for name in theirs if name.startswith(("train.", "method.", "test."))]
        assert [ours[name] for name in names] == pytest.approx([theirs[name] for name in names], rel=1e-3, abs=1e-4)


def close(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        a, b = list(a.values()), list(b.values())
    if isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            close(x, y)
    elif isinstance(a, torch.Tensor) and a.is_floating_point():
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, equal_nan=True)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=1e-3, nan_ok=True)
    else:
        assert same(a, b)
