"""Trainings side by side against the same trainings one after another."""

from __future__ import annotations

import pytest
import torch

from mwray.config import override
from mwray.recipes import recipe
from mwray.records import Run
from mwray.train import checkpoint
from mwray.train.loop import NonFiniteLoss, train
from mwray.train.pack import Pack, train_together
from mwray.worker import LocalWorker

SETTINGS = {"epochs": 3, "optimizer.milestones": [2], "data.num_train": 120, "data.num_test": 60, "batch_size": 30}
DIFFERENT = [
    {"method.weight_net.shape": "1-20-1", "optimizer.lr": 0.05},
    {"seed": 1, "data.bias.rate": 0.6, "method.weight_net.lr": 0.01, "optimizer.momentum": 0.5}
    | {"optimizer.schedule": "cosine", "optimizer.final": 0.1},
    {"seed": 2, "method.weight_net.shape": "1-10-10-1", "method.meta.every": 3, "data.num_meta": 150},
    {
        "seed": 3,
        "data.bias.noise": "flip",
        "data.num_train": 95,
        "optimizer.weight_decay": 0.01,
        "optimizer.warm_up": 1,
    },
]
TIMES = ("seconds", "images_per_second")


def experiments(changes, **common):
    base = override(recipe("digits"), {"data.num_validation": 50, "meta_batch_size": 30, **SETTINGS, **common})
    return [override(base, change) for change in changes]


def both(folder, trainings, at_once, **options):
    """The same trainings apart and together; returns pairs of run folders, and how those together ended."""
    apart = [folder / f"apart-{number}" for number in range(len(trainings))]
    together = [folder / f"together-{number}" for number in range(len(trainings))]
    for experiment, place in zip(trainings, apart, strict=True):
        train(experiment, place, worker=LocalWorker("cpu"))
    pairs = list(zip(trainings, together, strict=True))
    ended = train_together(pairs, at_once=at_once, device="cpu", always=True, **options)
    return list(zip(apart, together, strict=True)), ended


def distance(apart, together):
    """The largest difference of any number that two runs recorded."""
    a, b = Run(apart).records(), Run(together).records()
    assert [record.keys() for record in a] == [record.keys() for record in b]
    pairs = zip(a, b, strict=True)
    return max(abs(x[name] - y[name]) for x, y in pairs for name in x if name not in TIMES)


def state_distance(apart, together):
    """The largest difference of any number in the newest checkpoints, which must have one form."""
    a, b = (dict(flat(checkpoint.latest(folder))) for folder in (apart, together))
    assert a.keys() == b.keys()
    assert all(a[name] == b[name] for name in a if isinstance(a[name], str))
    numbers = [name for name in a if not isinstance(a[name], str | None)]
    assert all(torch.is_tensor(a[name]) == torch.is_tensor(b[name]) for name in numbers)
    as_double = [(torch.as_tensor(a[name]).double(), torch.as_tensor(b[name]).double()) for name in numbers]
    return max(float((x - y).abs().max()) for x, y in as_double)


def flat(state, prefix=""):
    if isinstance(state, dict | list | tuple):
        for name, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield from flat(value, f"{prefix}.{name}")
    else:
        yield prefix, state


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


MODES = {
    "base": {"method.name": "base"},
    "mwnet": {},
    "warm-up": {"method.meta.warm_up": 1},
    "optimizer": {"method.meta.look_ahead": "optimizer", "method.weight_net.optimizer": "adam"},
    "lagged": {"method.meta.order": "lagged", "optimizer.momentum": 0.0},
    "top": {"method.meta.layers": "top"},
    "through": {"method.meta.input": "through", "method.meta.weight_map": "mean"},
    "adamw": {"optimizer.name": "adamw", "method.meta.look_ahead": "optimizer", "optimizer.betas": [0.8, 0.99]},
    "adam-lagged": {"optimizer.name": "adam", "method.meta.order": "lagged"},
    "adamw-base": {"optimizer.name": "adamw", "method.name": "base"},
    "class": {
        "method.weight_net.conditioning": "class",
        "method.meta.weight_map": "detached",
        "optimizer.nesterov": True,
    },
}


@pytest.mark.parametrize("mode", MODES)
def test_trainings_together_come_to_what_each_comes_to_alone(mode, tmp_path, double):
    """In float64, where rounding cannot grow into something that is seen."""
    foreign = ("method.",) if "base" in mode else ()
    foreign += ("optimizer.momentum",) if "adam" in mode else ()
    changes = [{name: v for name, v in change.items() if not name.startswith(foreign)} for change in DIFFERENT]
    if mode == "adamw":
        changes[0]["optimizer.betas"] = [0.7, 0.9]  # in no stack with the others
    trainings = experiments(changes, **{"model.name": "tests.pack.networks:AnyPrecision"}, **MODES[mode])
    notes = []
    runs, ended = both(tmp_path, trainings, at_once=3, note=notes.append)
    assert not notes and all(end.error is None and end.summary is not None for end in ended)
    for apart, together in runs:
        assert distance(apart, together) < 1e-5
        assert state_distance(apart, together) < 1e-9


def test_trainings_in_half_precision_are_stacked_without_a_fallback(tmp_path, caplog):
    """Pooling to one pixel with channels innermost changes a stride in place, on one training's slice after another."""
    trainings = experiments([{"seed": 1}, {"seed": 2, "optimizer.lr": 0.05}], precision="bf16", epochs=1)
    runs, ended = both(tmp_path, trainings, at_once=2)
    assert all(end.error is None for end in ended)
    assert "tangent pass" not in caplog.text
    for apart, together in runs:
        assert state_distance(apart, together) < 0.1


def test_a_training_goes_on_together_where_it_was_left_alone_and_the_other_way_round(tmp_path, double):
    trainings = experiments(DIFFERENT[:3], **{"model.name": "tests.pack.networks:AnyPrecision"})
    runs, _ = both(tmp_path, trainings, at_once=3)
    places = [tmp_path / f"there-{number}" for number in range(3)]
    for experiment, place in zip(trainings, places, strict=True):
        stopped(experiment, place, alone=True)  # one epoch each, alone
    pack = Pack(always=True)
    for number, (experiment, place) in enumerate(zip(trainings, places, strict=True)):
        assert pack.add(str(number), experiment, place, worker=LocalWorker("cpu")) is None
    while any(len(Run(place).records()) < 2 for place in places):
        assert not pack.round()
    pack.close()
    for (apart, _), experiment, place in zip(runs, trainings, places, strict=True):
        train(experiment, place, worker=LocalWorker("cpu"))
        assert distance(apart, place) < 1e-5
        assert state_distance(apart, place) < 1e-9


class Stop(Exception):
    pass


def stopped(experiment, folder, alone):
    class Stopping(LocalWorker):
        def report(self, values, checkpoint):
            raise Stop

    with pytest.raises(Stop):
        train(experiment, folder, worker=Stopping("cpu"))


def test_a_training_that_diverges_ends_alone_and_the_next_one_takes_its_place(tmp_path):
    trainings = experiments([DIFFERENT[0], {"optimizer.lr": 1e30}, DIFFERENT[1], DIFFERENT[3]])
    _, ended = (
        [],
        train_together([(e, tmp_path / str(n)) for n, e in enumerate(trainings)], at_once=2, device="cpu", always=True),
    )
    assert isinstance(ended[1].error, NonFiniteLoss) and ended[1].summary is None
    for number in (0, 2, 3):
        assert ended[number].summary["epochs"] == 3
        train(trainings[number], tmp_path / f"apart-{number}", worker=LocalWorker("cpu"))
        assert distance(tmp_path / f"apart-{number}", tmp_path / str(number)) < 0.05  # float32: an image or two


def test_trainings_that_cannot_be_stacked_step_in_turn_with_the_bits_that_they_have_alone(tmp_path):
    own = {"epochs": 2, "optimizer.milestones": []}
    changes = [
        {"method.name": "co-teaching"},
        {"model.name": "tests.train.test_pack:dropping", "seed": 1},
        {"model.name": "tests.train.test_pack:dropping", "seed": 2},
        {"model.name": "mlp"},
        {"batch_size": 20},
    ]
    notes = []
    runs, ended = both(tmp_path, experiments(changes, **own), at_once=5, note=notes.append)
    assert all(end.error is None for end in ended)
    assert any("co-teaching" in note for note in notes) and any("dropping" in note for note in notes)
    for apart, together in runs:
        assert distance(apart, together) == 0
        assert state_distance(apart, together) == 0


def dropping(num_classes, shape):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.Dropout(), torch.nn.Linear(32, 10))


def test_on_a_cpu_steps_are_stacked_only_where_that_is_faster(tmp_path):
    trainings = experiments([{"seed": seed} for seed in range(5)], epochs=5, **{"optimizer.milestones": []})
    pack = Pack()
    for number, experiment in enumerate(trainings):
        pack.add(str(number), experiment, tmp_path / str(number), worker=LocalWorker("cpu"))
        pack.round()
        assert [slot.place is not None for slot in pack.slots.values()] == [number >= 3] * (number + 1)
    pack.close()


def test_the_callers_random_state_and_a_finished_folder_are_left_alone(tmp_path):
    (experiment,) = experiments([DIFFERENT[0]], epochs=1, **{"optimizer.milestones": []})
    before = torch.get_rng_state()
    (first,) = train_together([(experiment, tmp_path)], at_once=4, device="cpu")
    assert torch.equal(before, torch.get_rng_state())
    (again,) = train_together([(experiment, tmp_path)], at_once=4, device="cpu")
    assert again == first


def test_a_training_that_cannot_begin_is_its_own_end(tmp_path):
    good, bad = experiments([DIFFERENT[0], {"data.num_meta": 0}], epochs=1, **{"optimizer.milestones": []})
    ended = train_together([(bad, tmp_path / "bad"), (good, tmp_path / "good")], at_once=2, device="cpu")
    assert "num_meta" in str(ended[0].error) and ended[1].error is None


def test_weight_nets_that_move_now_and_then_move_in_the_same_steps(tmp_path):
    """A training that joins waits until it is in step, else every step of all would cost what a moving one costs."""
    first, second = experiments([{}, {"seed": 1}], **{"method.meta.every": 4, "epochs": 9, "optimizer.milestones": []})
    pack = Pack(always=True)
    pack.add("a", first, tmp_path / "a", worker=LocalWorker("cpu"))
    pack.add("c", first, tmp_path / "c", worker=LocalWorker("cpu"))
    for _ in range(5):
        pack.round()
    pack.add("b", second, tmp_path / "b", worker=LocalWorker("cpu"))
    for _ in range(8):
        pack.round()
    a, b = (pack.slots[name].session.method.meta.steps for name in "ab")
    assert a % 4 == b % 4 and 4 < b < 9
    pack.close()
