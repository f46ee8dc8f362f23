"""The study, asked and told by tests in place of trainings; a kill is an object that is dropped."""

from __future__ import annotations

import math

import pytest

from mwray.cluster.journal import read_study
from mwray.cluster.leaderboard import entry_row
from mwray.cluster.study import REDRAWS, Study
from mwray.config import ConfigError
from tests.cluster.helpers import finish_run, space


def accuracy(values):
    """A smooth objective with its top inside the space."""
    return 0.9 - (math.log10(values["optimizer.lr"]) + 1) ** 2 - 1e-3 * (values["data.num_meta"] == 20)


def run_all(study, most=None):
    """Ask and tell until nothing is left; returns the points in the order of asking."""
    points = []
    while most is None or len(points) < most:
        proposal = study.next()
        if proposal is None:
            break
        study.finish(proposal.number, accuracy(proposal.values))
        points.append(dict(proposal.values))
    return points


def test_the_first_trial_is_the_starting_point_and_the_asked_number_is_kept(tmp_path):
    study = Study(space(), tmp_path)
    points = run_all(study)
    assert len(points) == 6
    assert points[0] == {"method.weight_net.shape": "1-100-1", "optimizer.lr": 0.1, "data.num_meta": 100}
    assert study.next() is None
    assert not study.unfinished


def test_the_same_seed_draws_the_same_and_another_draws_others(tmp_path):
    first = run_all(Study(space(), tmp_path / "a"))
    assert first == run_all(Study(space(), tmp_path / "b"))
    assert first[1:] != run_all(Study(space(seed=1), tmp_path / "c"))[1:]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_broken_off_at_any_trial_draws_what_an_unbroken_one_draws(tmp_path, sampler):
    whole = run_all(Study(space(sampler=sampler, trials=9), tmp_path / "whole"))
    broken = []
    while True:  # a new object, as a new process would have, for each trial
        more = run_all(Study(space(sampler=sampler, trials=9), tmp_path / "broken"), most=1)
        if not more:
            break
        broken += more
    assert broken == whole
    assert len({str(point) for point in whole}) == 9


def test_tpe_finds_what_random_search_does_not(tmp_path):
    """A check that the values told reach the sampler: late draws are better than early ones."""
    points = run_all(Study(space(trials=40), tmp_path))
    values = [accuracy(point) for point in points]
    assert sum(values[-10:]) / 10 > sum(values[1:9]) / 8 + 0.02


def test_a_trial_that_was_running_is_handed_out_again_with_its_number_and_point(tmp_path):
    study = Study(space(), tmp_path)
    run_all(study, most=1)
    lost = [study.next(), study.next()]
    del study
    again = Study(space(), tmp_path)
    assert again.unfinished
    assert [again.next() for _ in range(2)] == lost
    assert again.next().number == 3


def test_a_run_that_finished_unheard_is_told_from_its_records_and_not_run_again(tmp_path):
    study = Study(space(), tmp_path)
    proposal = study.next()
    finish_run(proposal.folder, proposal.experiment, 0.77)
    again = Study(space(), tmp_path)
    assert again.next().number == 1
    entry = again.entry(0)
    assert (entry.state, entry.value) == ("complete", 0.77)


def test_every_trial_is_in_the_study_once_however_often_it_is_opened(tmp_path):
    for _ in range(20):
        study = Study(space(), tmp_path)
        proposal = study.next()
        if proposal is None:
            break
        if proposal.number % 2:
            finish_run(proposal.folder, proposal.experiment, 0.5)  # finished, and the driver dies before it is told
        else:
            study.finish(proposal.number, 0.6)
    entries = Study(space(), tmp_path).entries()
    assert [entry.number for entry in entries] == list(range(6))
    assert [entry.value for entry in entries] == [0.6, 0.5] * 3


def test_a_journal_cut_short_and_a_lock_left_behind_are_mended(tmp_path):
    points = run_all(Study(space(), tmp_path), most=3)
    journal = tmp_path / "study.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker_id":"x"')
    (tmp_path / "study.journal.lock").symlink_to(journal)
    study = Study(space(), tmp_path)
    assert [entry.values for entry in study.entries()] == points
    assert len(run_all(study)) == 3


def test_a_failed_trial_keeps_its_reason_and_is_not_tried_again(tmp_path):
    study = Study(space(), tmp_path)
    study.fail(study.next().number, "NonFiniteLoss: epoch 3")
    study.finish(study.next().number, float("nan"))
    study.finish(study.next().number, None)
    entries = Study(space(), tmp_path).entries()
    assert [entry.state for entry in entries] == ["failed"] * 3
    assert entries[0].reason == "NonFiniteLoss: epoch 3"
    assert "validation.accuracy is nan" in entries[1].reason
    assert Study(space(), tmp_path).next().number == 3


def test_more_trials_go_on_and_fewer_stop(tmp_path):
    run_all(Study(space(), tmp_path))
    assert Study(space(), tmp_path, target=3).next() is None
    assert [p["optimizer.lr"] for p in run_all(Study(space(trials=8), tmp_path))] == [
        entry.values["optimizer.lr"] for entry in Study(space(), tmp_path).entries()
    ][6:]


def test_another_space_in_the_same_folder_is_refused_and_says_what_differs(tmp_path):
    Study(space(), tmp_path)
    with pytest.raises(ConfigError, match=r"base\.epochs: 2 there, 3 here") as refusal:
        Study(space(set={"epochs": 3, "optimizer.milestones": []}), tmp_path)
    assert str(tmp_path) in str(refusal.value)
    with pytest.raises(ConfigError, match="workers: 1 there, 2 here"):
        Study(space(), tmp_path, workers=2)


def test_conditional_fields_are_drawn_only_where_they_apply(tmp_path):
    search = {
        "method.weight_net.optimizer": {"choice": ["sgd", "adam"]},
        "method.weight_net.momentum": {"float": [0.1, 0.9], "when": {"method.weight_net.optimizer": ["sgd"]}},
    }
    points = run_conditional(Study(space(search, start=[], trials=12), tmp_path))
    kinds = {point["method.weight_net.optimizer"] for point in points}
    assert kinds == {"sgd", "adam"}
    for point in points:
        assert ("method.weight_net.momentum" in point) == (point["method.weight_net.optimizer"] == "sgd")


def run_conditional(study):
    """Every proposal's values, with its experiment checked against them."""
    points = []
    while (proposal := study.next()) is not None:
        assert proposal.experiment == study.space.experiment(proposal.values)
        study.finish(proposal.number, 0.5)
        points.append(proposal.values)
    return points


def test_a_finite_space_ends_when_every_point_is_tried_even_if_more_trials_are_asked_for(tmp_path):
    search = {"method.weight_net.shape": {"choice": ["1-50-1", "1-100-1", "1-10-10-1"]}}
    study = Study(space(search, trials=50), tmp_path)
    shapes = []
    while (proposal := study.next()) is not None:
        study.finish(proposal.number, 0.5)
        shapes.append(proposal.values["method.weight_net.shape"])
    assert sorted(shapes) == ["1-10-10-1", "1-100-1", "1-50-1"]
    assert not study.unfinished


def test_a_grid_visits_every_point_once_over_a_restart(tmp_path):
    search = {"seed": {"int": [0, 2]}, "optimizer.milestones": {"choice": [[], [1]]}}
    grid = space(search, sampler="grid", set={"epochs": 2}, trials=None)
    seen = []
    for _ in range(3):
        study = Study(grid, tmp_path)
        for _ in range(2):
            proposal = study.next()
            seen.append((proposal.values["seed"], tuple(proposal.values["optimizer.milestones"])))
            study.finish(proposal.number, 0.5)
    assert Study(grid, tmp_path).next() is None
    assert sorted(seen) == [(seed, steps) for seed in range(3) for steps in ((), (1,))]


def test_successive_halving_stops_the_worse_half_after_the_grace_period_and_across_a_restart(tmp_path):
    asha = space(pruner={"asha": {"grace_period": 2, "reduction_factor": 2}}, set={"epochs": 9})
    study = Study(asha, tmp_path)
    first = study.next().number
    assert [study.report(first, epoch, 0.9) for epoch in (1, 2, 3)] == [False] * 3
    study.finish(first, 0.9)
    again = Study(asha, tmp_path)
    second = again.next().number
    assert not again.report(second, 1, 0.1)  # within the grace period nothing is stopped
    assert again.report(second, 2, 0.1)
    again.prune(second)
    entry = again.entry(second)
    assert (entry.state, entry.value, entry.epoch) == ("pruned", 0.1, 2)
    assert Study(asha, tmp_path).next().number == 2  # it is closed


def test_the_median_rule_stops_what_is_below_the_median_of_finished_trials(tmp_path):
    median = space(pruner={"median": {"grace_period": 2, "min_trials": 3}}, set={"epochs": 9})
    study = Study(median, tmp_path)
    for value in (0.5, 0.6, 0.7):
        number = study.next().number
        assert not any(study.report(number, epoch, value) for epoch in (1, 2, 3))
        study.finish(number, value)
    low, high = study.next().number, study.next().number
    assert not study.report(low, 1, 0.1)
    assert study.report(low, 2, 0.55)
    assert not study.report(high, 2, 0.65)


def test_by_default_nothing_is_stopped_during_the_first_third(tmp_path):
    asha = space(pruner="asha", set={"epochs": 30})
    assert asha.grace_period(None, 30) == 10
    assert asha.grace_period(4, 30) == 4


def test_reporting_an_epoch_again_after_a_resume_changes_nothing(tmp_path):
    study = Study(space(), tmp_path)
    number = study.next().number
    study.report(number, 1, 0.5)
    study.report(number, 1, 0.9)
    study.report(number, 2, float("nan"))
    assert study.entry(number).epoch == 1
    study.prune(number)
    assert study.entry(number).value == 0.5


def test_fields_that_exclude_each_other_make_a_failed_trial_and_the_search_goes_on(tmp_path):
    search = {"optimizer.nesterov": {"choice": [True]}, "optimizer.momentum": {"choice": [0.0, 0.9]}}
    study = Study(space(search, sampler="grid", start=[], trials=None), tmp_path)
    proposal = study.next()
    assert proposal.values["optimizer.momentum"] == 0.9
    assert study.next() is None
    assert study.entry(0).state == "failed"
    assert "nesterov" in study.entry(0).reason
    assert study.refused == [0]
    row = entry_row(study, study.entry(0))
    assert row.values["optimizer.momentum"] == 0.0 and row.values["optimizer.nesterov"] is True  # as drawn


def test_no_more_than_so_many_points_in_a_row_that_cannot_be_trained_are_drawn(tmp_path):
    together = {"optimizer.nesterov": {"choice": [True]}, "optimizer.momentum": {"choice": [0.0]}}
    study = Study(space({**together, "optimizer.lr": {"float": [0.01, 0.1]}}, start=[], trials=500), tmp_path)
    assert study.next() is None
    assert len(study.refused) == len(study.entries()) == REDRAWS


def test_failed_trials_are_tried_again_when_asked_and_count_once(tmp_path):
    study = Study(space(trials=4), tmp_path)
    failed = study.next()
    study.fail(failed.number, "OutOfMemoryError: 3 GiB")
    for _ in range(3):
        study.finish(study.next().number, 0.5)
    assert Study(space(trials=4), tmp_path).next() is None

    study = Study(space(trials=4), tmp_path)
    assert study.retry_failed() == [0]
    study = Study(space(trials=4), tmp_path)  # killed between the queueing and the asking
    again = study.next()
    assert (again.number, again.values, again.folder) == (4, failed.values, failed.folder)
    assert study.next() is None
    study.finish(again.number, 0.9)
    entries = Study(space(trials=4), tmp_path).entries()
    assert [(entry.number, entry.state) for entry in entries] == [(number, "complete") for number in (1, 2, 3, 4)]
    assert Study(space(trials=4), tmp_path).retry_failed() == []


def test_epochs_whose_word_was_lost_are_told_from_the_records(tmp_path):
    study = Study(space(set={"epochs": 4, "optimizer.milestones": []}), tmp_path)
    proposal = study.next()
    study.report(proposal.number, 1, 0.5)
    finish_run(proposal.folder, proposal.experiment, 0.5, epochs=3)
    study.report(proposal.number, 3, 0.5)
    finish_run(proposal.folder, proposal.experiment, 0.5)  # and the last one's process died before it said so
    study.finish(proposal.number, 0.5)
    (trial,) = read_study(tmp_path).get_trials()
    assert trial.intermediate_values == dict.fromkeys((1, 2, 3, 4), 0.5)


def test_a_look_while_the_driver_adds_to_its_journal_is_of_what_is_whole(tmp_path):
    assert read_study(tmp_path) is None
    study = Study(space(trials=2), tmp_path / "driver")
    study.finish(study.next().number, 0.5)
    study.next()
    data = (tmp_path / "driver" / "study.journal").read_bytes()
    lines = data.splitlines(keepends=True)
    counts = []
    for end in [*range(0, len(data), 61), *range(len(data) - len(lines[-1]), len(data) + 1)]:
        (tmp_path / "study.journal").write_bytes(data[:end])
        seen = read_study(tmp_path)
        counts.append(0 if seen is None else len(seen.get_trials()))
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == 2
    hole = b"".join(lines[:-2]) + bytes(len(lines[-2])) + lines[-1]  # as a network file system may bring it
    (tmp_path / "study.journal").write_bytes(hole)
    assert len(read_study(tmp_path).get_trials()) in (1, 2)
    assert (tmp_path / "study.journal").read_bytes() == hole


def test_every_point_is_trained_at_every_seed_before_the_next_is_drawn(tmp_path):
    points = run_all(Study(space(seeds=3, trials=3), tmp_path))
    assert [point["seed"] for point in points] == [0, 1, 2] * 3
    bare = [{name: value for name, value in point.items() if name != "seed"} for point in points]
    assert bare[0] == bare[1] == bare[2] != bare[3] == bare[4] == bare[5] != bare[6] == bare[7] == bare[8]

    broken = []
    while more := run_all(Study(space(seeds=3, trials=3), tmp_path / "broken"), most=1):
        broken += more
    assert broken == points


def test_a_point_that_fails_at_one_seed_is_not_repeated(tmp_path):
    study = Study(space(seeds=3, trials=2, start=[]), tmp_path)
    first = study.next()
    study.fail(first.number, "diverged")
    second = study.next()
    assert second.values["seed"] == 0 and second.values["optimizer.lr"] != first.values["optimizer.lr"]
    assert study.next().values == {**second.values, "seed": 1}
