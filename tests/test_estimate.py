"""How long a study may take: sizes against the splits themselves, costs against closed forms."""

from __future__ import annotations

import pytest

from mwray.config import override, to_dict
from mwray.data.sizes import CLASSES, SHAPES, TEST_IMAGES, TRAIN_IMAGES, epoch_images, evaluated_images
from mwray.data.sources import load
from mwray.data.splits import split
from mwray.recipes import digits, noise
from mwray.records import Run
from mwray.studies.estimate import COST, UNKNOWN_COST, Forecast
from mwray.studies.probe import seconds_per_image

KIND = ("digits", "small")


def test_the_sizes_of_digits_are_those_of_the_data_set():
    source = load("digits")
    assert (len(source.train_labels), len(source.test_labels)) == (TRAIN_IMAGES["digits"], TEST_IMAGES["digits"])
    assert tuple(source.train_images.shape[1:]) == SHAPES["digits"]
    assert len(source.class_names) == CLASSES["digits"]


@pytest.mark.parametrize("make", [digits.uniform, digits.longtail])
def test_an_epoch_has_about_as_many_images_as_the_split(make):
    data = make().data
    assert epoch_images(data) == pytest.approx(len(split(data, 0).train), rel=0.06)


def test_the_paper_s_tails_by_count():
    # Ten classes of 4,990 images, imbalance 100: 4,990 x sum of 100^(-i / 9).
    assert epoch_images(noise.cifar10_longtail().data) == pytest.approx(4990 * 2.4820, rel=1e-3)
    assert epoch_images(noise.cifar10_flip().data) == 49_000
    assert evaluated_images(noise.cifar10_flip().data) == 10_000


def finish(folder, experiment, seconds):
    run = Run(folder)
    run.start(to_dict(experiment), {"num_train": 1000}, 0)
    run.finish({"test.last": 0.9, "epochs": experiment.epochs, "seconds": seconds})


def forecast(tmp_path, *methods, **more):
    start = override(digits.uniform(), {"data.num_train": 1000, "data.num_test": 300})
    made = {tmp_path / name: override(start, {"method.name": name}) for name in methods}
    return made, Forecast(made, root=tmp_path, **more)


def test_without_runs_a_timed_step_and_the_cost_of_methods_are_all_there_is(tmp_path):
    asked = []

    def probe(kind, batch_size):
        asked.append((kind, batch_size))
        return 1e-3

    _, known = forecast(tmp_path, "base", "l2rw", probe=probe)
    epochs, plain, tested = 40, 1000 * 1e-3, 300 * 1e-3 / 3
    assert known.left() == pytest.approx(epochs * (plain * (1 + COST["l2rw"]) + 2 * tested))
    assert asked == [(KIND, 100)]
    _, unknown = forecast(tmp_path, "base")
    assert unknown.left() is None


def test_finished_runs_say_it_better_also_for_methods_that_have_none(tmp_path):
    made, found = forecast(tmp_path, "base", "l2rw", "mwnet", probe=lambda kind, size: 1.0)
    finish(tmp_path / "mwnet", made[tmp_path / "mwnet"], 80.0)  # 2 ms an image
    found.finished(tmp_path / "mwnet")
    plain = 2e-3 / COST["mwnet"]
    images = 1000 * plain * (1 + COST["l2rw"]) + 2 * 300 * plain / 3
    assert found.left() == pytest.approx(40 * images)
    assert (found.done, found.total) == (1, 3)
    _, again = forecast(tmp_path, "base", "l2rw", "mwnet")
    assert again.left() == pytest.approx(found.left()) and again.done == 1


def test_epochs_that_are_done_are_not_left(tmp_path):
    made, found = forecast(tmp_path, "base", probe=lambda kind, size: 1e-3)
    whole = found.left()
    run = Run(tmp_path / "base")
    run.start(to_dict(made[tmp_path / "base"]), {}, 0)
    run.append({"epoch": 1})
    assert found.left() == pytest.approx(whole * 39 / 40)
    assert found.worked() == pytest.approx(whole / 40)
    for epoch in range(2, 41):
        run.append({"epoch": epoch})
    found.finished(tmp_path / "base")
    assert (found.left(), found.worked()) == (0, pytest.approx(whole))
    run.append({"epoch": 41})
    assert forecast(tmp_path, "base", probe=lambda kind, size: 1e-3)[1].worked() == 0  # all of it was there before


def test_what_waits_for_a_weight_net_counts_before_it_has_a_folder(tmp_path):
    other = override(digits.uniform(), {"method.name": "base", "data.num_meta": 0})
    found = Forecast({}, [other, other], root=tmp_path, probe=lambda kind, size: 1e-3)
    whole = found.left()
    found.begun(tmp_path / "a", other)
    assert found.left() == pytest.approx(whole) and (found.done, found.total) == (0, 2)
    found.finished(tmp_path / "a")
    assert found.left() == pytest.approx(whole / 2) and found.done == 1


def test_a_method_of_no_known_cost_is_not_for_nothing(tmp_path):
    made, found = forecast(tmp_path, "base", probe=lambda kind, size: 1e-3)
    assert found._plain(KIND, 100) == 1e-3 and UNKNOWN_COST >= 1
    assert all(cost >= 1 for cost in COST.values()) and made


def test_a_step_is_timed_on_the_network_itself():
    small, wide = (seconds_per_image(("digits", name), 8) for name in ("small", "wrn16-4"))
    assert 0 < small < wide < 10
