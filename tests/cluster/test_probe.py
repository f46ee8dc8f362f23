"""How many trials share a GPU, from what a probe measured; the probe's own training runs here on a CPU."""

from __future__ import annotations

import pytest
import torch

from mwray.cluster import probe
from mwray.cluster.connect import Allotment, allot
from mwray.cluster.probe import Measured, gpus_per_trial, largest, measure, rehearse
from mwray.config import ConfigError, to_dict
from tests.cluster.helpers import space

GIB = 2**30
L4 = {"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0}
H100 = {"CPU": 32.0, "GPU": 2.0, "accelerator_type:H100": 1.0}
LAPTOP = {"CPU": 4.0}


def asked_of(*, nodes, later=None, given=None, workers=1, peaks=None, joined=True):
    """What comes of nodes where a trial takes `peaks[kind]` bytes; what was said last; the kinds that were probed."""
    probed, said = [], [None]

    def fake(points, kind):
        probed.append(kind)
        peak = (peaks or {}).get(kind, GIB)
        totals = {"accelerator_type:L4": 24 * GIB, "accelerator_type:H100": 80 * GIB}
        return None if peak is None else Measured(peak, GIB, totals.get(kind, 24 * GIB), "a card")

    then = iter([nodes])

    def look():
        return next(then, later or nodes)

    return gpus_per_trial(space(), given, workers, look, joined, fake, said.append), said[-1], probed


@pytest.mark.parametrize(
    ("peak", "cores", "trials"),
    [
        (1.0, 64, 10),  # 0.9 * 24 / (1 + 1)
        (1.0, 4, 4),  # a core for each
        (1.0, 0.5, 1),
        (0.1, 64, probe.MOST),
        (20.0, 64, 1),
        (30.0, 64, 1),  # does not fit: the trial itself will say so
        (6.2, 64, 3),
    ],
)
def test_memory_and_cores_bound_the_trials_of_a_gpu(peak, cores, trials):
    assert Measured(int(peak * GIB), GIB, 24 * GIB, "a card").trials(cores) == trials


def test_what_torch_does_not_count_is_never_taken_for_nothing():
    assert Measured(GIB // 2, 0, 9 * GIB, "a card").trials(64) == 8  # 0.9 * 9 / (0.5 + 0.5)


def test_without_a_gpu_nothing_is_probed_and_nothing_changes():
    assert asked_of(nodes=[LAPTOP]) == (None, None, [])


def test_cores_are_counted_on_the_machine_that_came_for_the_probe():
    came = {"CPU": 4.0, "GPU": 1.0, "accelerator_type:L4": 1.0}
    share, said, _ = asked_of(nodes=[{"CPU": 0.0}], later=[came], given="auto", peaks={None: GIB // 10})
    assert share == 0.25 and "4 on each GPU" in said


def test_a_number_that_is_given_stays():
    assert asked_of(nodes=[L4], given=0.5) == (0.5, None, [])
    assert asked_of(nodes=[L4], given=0) == (0, None, [])


def test_workers_that_exchange_gradients_get_a_gpu_each():
    assert asked_of(nodes=[L4], workers=2) == (2.0, None, [])
    assert asked_of(nodes=[{"CPU": 0.0}], workers=2, given="auto") == (2.0, None, [])
    assert asked_of(nodes=[LAPTOP], workers=2) == (None, None, [])


def test_auto_on_a_machine_without_a_gpu_waits_for_none():
    share, said, probed = asked_of(nodes=[LAPTOP], given="auto", joined=False)
    assert share is None and "train on CPUs" in said and probed == []


def test_a_gpu_is_shared_by_what_was_measured_and_the_search_says_so():
    share, why, probed = asked_of(nodes=[LAPTOP, L4], peaks={"accelerator_type:L4": 2 * GIB})
    assert share == 0.1428  # seven: 0.9 * 24 / (2 + 1)
    assert probed == ["accelerator_type:L4"]
    assert why == "a trial takes up to 3.0 of the 24 GiB of a card: 7 on each GPU (--gpus-per-trial 0.1428)"
    assert allot([LAPTOP, L4], 1, None, share).fits([LAPTOP, L4]) == 7


def test_of_several_kinds_the_tightest_decides():
    peaks = {"accelerator_type:L4": 4 * GIB, "accelerator_type:H100": 2 * GIB}
    share, _, probed = asked_of(nodes=[L4, H100], peaks=peaks)
    assert share == 0.25  # four on the L4, sixteen on the H100
    assert probed == ["accelerator_type:H100", "accelerator_type:L4"]
    assert allot([L4, H100], 1, None, share) == Allotment(1, 2, 0.25)


def test_auto_waits_for_a_gpu_where_there_is_none_yet():
    assert asked_of(nodes=[{"CPU": 0.0}], given="auto")[2] == [None]
    with pytest.raises(ConfigError, match="no worker is there yet"):
        asked_of(nodes=[{"CPU": 0.0}])
    with pytest.raises(ConfigError, match="'half' is neither"):
        asked_of(nodes=[L4], given="half")


def test_a_probe_that_fails_leaves_one_trial_to_a_gpu():
    share, why, _ = asked_of(nodes=[L4], peaks={"accelerator_type:L4": None})
    assert share == 1.0 and "could not train" in why


def test_the_points_are_those_that_may_take_most():
    searched = {
        "batch_size": {"int": [50, 200], "step": 50},
        "model.name": {"choice": ["small_cnn", "mlp"]},
        "optimizer.lr": {"float": [0.1, 1.0]},
        "method.weight_net.shape": {"choice": ["1-50-1", "1-100-1"]},
    }
    points = largest(space(searched, start=[]))
    assert [(point.model.name, point.batch_size) for point in points] == [("small_cnn", 200), ("mlp", 200)]
    assert largest(space({"optimizer.lr": {"float": [0.1, 1.0]}})) == [space().base]
    kinds = {"optimizer.name": {"choice": ["sgd", "adamw"]}}  # Adam keeps two numbers beside each parameter
    assert [point.optimizer.name for point in largest(space(kinds))] == ["sgd", "adamw"]


def test_the_rehearsal_trains_some_steps_of_a_real_trial_and_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(probe.tempfile, "tempdir", str(tmp_path))
    seen = []
    monkeypatch.setattr(probe._Stop, "step", lambda self, epoch, step: seen.append((epoch, step)))
    rehearse(space().base, "cpu")
    assert seen == [(0, step) for step in range(1, probe.STEPS + 1)]
    assert [path.name for path in tmp_path.iterdir() if "inductor" not in path.name] == []  # torch's own cache


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_measuring_without_a_gpu_finds_nothing():
    assert measure([to_dict(space().base)]) is None


@pytest.mark.gpu
def test_a_gpu_is_measured():
    found = measure([to_dict(space().base)])
    assert 0 < found.peak < found.total and found.outside >= 0 and found.name
