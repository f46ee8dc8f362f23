"""The loop: same seed same bits, a kill changes nothing, a mistake is named before anything is written."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mwray.config import ConfigError, override, to_dict
from mwray.experiment import Experiment
from mwray.recipes import recipe
from mwray.records import RecordError, Run
from mwray.train import checkpoint
from mwray.train.loop import NonFiniteLoss, train
from mwray.worker import LocalWorker
from tests.methods.setups import same
from tests.methods.test_contract import bits
from tests.train.stopping import Stopped, Stopping


def short(method: str = "mwnet", **values) -> Experiment:
    return override(
        recipe("digits"),
        {"method.name": method, "epochs": 3, "optimizer.milestones": [2], "data.num_train": 400, "data.num_test": 100}
        | {name.replace("__", "."): value for name, value in values.items()},
    )


def run(experiment: Experiment, folder: Path, **options):
    return train(experiment, folder, worker=LocalWorker("cpu"), **options)


@pytest.mark.parametrize("method", ["base", "mwnet"])
def test_same_seed_same_bits_and_a_resume_changes_nothing(tmp_path, method):
    experiment = short(method)
    run(experiment, tmp_path / "a")
    run(experiment, tmp_path / "b")
    for _ in range(2):
        with pytest.raises(Stopped):
            train(experiment, tmp_path / "c", worker=Stopping(1))
    run(experiment, tmp_path / "c")
    a, b, c = (bits(tmp_path / name) for name in "abc")
    assert same(a, b)
    assert same(a, c)
    run(override(experiment, {"seed": 1}), tmp_path / "d")
    assert not same(a, bits(tmp_path / "d"))


class Counting(Stopping):
    """Counts as a worker among several does."""

    calls = 0

    def average(self, tensors):
        self.calls += 1
        return list(tensors)

    def exchanged(self):
        calls, self.calls = self.calls, 0
        return {"calls": calls}


def test_what_an_epoch_exchanges_is_the_same_after_a_resume(tmp_path):
    experiment = short(epochs=2)
    train(experiment, tmp_path / "a", worker=Counting(3))
    with pytest.raises(Stopped):
        train(experiment, tmp_path / "b", worker=Counting(1))
    train(experiment, tmp_path / "b", worker=Counting(3))
    a, b = ([r["exchange.calls_per_step"] for r in Run(tmp_path / name).records()] for name in "ab")
    assert a == b and a[0] == a[1] > 0


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    experiment = short(epochs=6, optimizer__milestones=[4])
    run(experiment, tmp_path / "whole")
    code = (
        "import sys, json; from pathlib import Path; from mwray.config import read; "
        "from mwray.experiment import Experiment; from mwray.train.loop import train; "
        "train(read(Experiment, json.loads(sys.argv[1])), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, json.dumps(to_dict(experiment)), str(tmp_path / "killed")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    chance = random.Random(0)
    kills = 0
    for _ in range(40):
        process = subprocess.Popen(command, env=environment)
        try:
            assert process.wait(timeout=chance.uniform(2.0, 6.0)) == 0
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    else:
        pytest.fail("never finished")
    assert kills > 0
    assert Run(tmp_path / "killed").summary().keys() == Run(tmp_path / "whole").summary().keys()
    assert same(bits(tmp_path / "killed"), bits(tmp_path / "whole"))


def test_a_checkpoint_every_second_epoch_loses_one_epoch_at_most(tmp_path):
    experiment = short("base", epochs=4)
    with pytest.raises(Stopped):
        train(experiment, tmp_path / "a", worker=Stopping(3), checkpoint_every=2)
    assert checkpoint.latest(tmp_path / "a")["epoch"] == 2
    assert [r["epoch"] for r in Run(tmp_path / "a").records()] == [1, 2, 3]
    run(experiment, tmp_path / "a", checkpoint_every=2)
    run(experiment, tmp_path / "b")
    assert same(bits(tmp_path / "a"), bits(tmp_path / "b"))


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    experiment = short("base", epochs=1)
    first = run(experiment, tmp_path / "a")
    monkeypatch.setattr("mwray.train.loop.Session", lambda *given: pytest.fail("it was begun again"))
    assert run(experiment, tmp_path / "a") == first


def test_a_folder_of_another_experiment_is_refused(tmp_path):
    run(short("base", epochs=1), tmp_path / "a")
    with pytest.raises((RecordError, checkpoint.CheckpointError), match="another experiment"):
        run(short("base", epochs=2), tmp_path / "a")


def test_records_hold_what_was_promised(tmp_path):
    summary = run(short(), tmp_path / "a")
    records = Run(tmp_path / "a").records()
    assert [r["epoch"] for r in records] == [1, 2, 3]
    assert [r["lr"] for r in records] == pytest.approx([0.1, 0.1, 0.01])
    wanted = """train.loss train.meta_loss train.weighted_loss train.accuracy_observed train.accuracy_true
        validation.accuracy validation.loss test.accuracy test.loss train.weight_clean train.weight_noisy
        train.weight_auc seconds images_per_second"""
    assert set(wanted.split()) <= set(records[-1])
    assert summary["test.last"] == records[-1]["test.accuracy"]
    assert summary["test.best"] == max(r["test.accuracy"] for r in records)
    assert summary["dropped_per_epoch"] == 0
    started = json.loads((tmp_path / "a" / "environment.json").read_text())[0]
    assert (started["num_train"], started["num_meta"], started["num_validation"]) == (400, 100, 190)


def test_the_classifier_starts_from_the_same_weights_under_every_method(tmp_path):
    starts = []
    for method in ("base", "mwnet"):
        experiment = short(method, epochs=1, optimizer__lr=1e-30, optimizer__weight_decay=0.0)
        run(experiment, tmp_path / method)
        state = checkpoint.latest(tmp_path / method)["method"]
        network = state.get("classifier", state)["network"]
        starts.append(network)
    for name, value in starts[0].items():  # zero-initialised biases have moved by some 1e-32
        torch.testing.assert_close(value, starts[1][name], rtol=0, atol=1e-30, msg=name)


def test_divergence_stops_the_run_and_names_the_step(tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"epoch 1: .* after step \d+ of 4 .*optimizer.lr than 1e\+30.* cure$"):
        run(short("base", optimizer__lr=1e30), tmp_path / "a")
    assert Run(tmp_path / "a").state == "started"


def test_divergence_names_a_checkpoint_where_there_is_one(tmp_path):
    late = short("base", optimizer__factor=1e30, optimizer__milestones=[2])
    with pytest.raises(NonFiniteLoss, match=r"epoch 3: .* the last good checkpoint is kept: .*checkpoint-000002-"):
        run(late, tmp_path / "a")


def test_the_callers_random_state_is_left_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    run(short("base", epochs=1), tmp_path / "a")
    assert torch.equal(torch.rand(4), expected)


def test_a_method_that_needs_clean_images_is_refused_without(tmp_path):
    with pytest.raises(ConfigError, match="data.num_meta: method 'mwnet' learns from clean meta samples"):
        run(short(data__num_meta=0), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_settings_built_in_code_are_checked_too(tmp_path):
    from dataclasses import replace

    with pytest.raises(ConfigError, match="epochs: -1 was given"):
        run(replace(short(), epochs=-1), tmp_path / "a")


def test_a_folder_may_be_text(tmp_path):
    summary = train(short("base", epochs=1), str(tmp_path / "a"))
    assert Run(tmp_path / "a").summary() == summary
