"""What a search says about its fields, against objectives that are known."""

from __future__ import annotations

import math
from dataclasses import replace
from zlib import crc32

import optuna
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from mwray.cluster import analysis_draw, leaderboard, summary
from mwray.cluster.analysis import averaged, best_of, fields, importances, short_names, spreads, tidy
from mwray.cluster.leaderboard import SearchResult, columns
from mwray.cluster.study import Study
from tests.cluster.helpers import finish_run, space

CONDITIONAL = {
    "optimizer.lr": {"float": [0.001, 0.1], "log": True},
    "method.weight_net.optimizer": {"choice": ["sgd", "adam"]},
    "method.weight_net.momentum": {"float": [0.0, 0.9], "when": {"method.weight_net.optimizer": ["sgd"]}},
    "data.augment": {"choice": [True, False]},
}


def searched(folder, search, accuracy, trials=24, **changes):
    """A search in which every trial came to `accuracy(values)`; returns its space, its trials and its result."""
    over = space(search, trials=trials, sampler="random", start=[], **changes)
    study = Study(over, folder)
    while (proposal := study.next()) is not None:
        finish_run(proposal.folder, proposal.experiment, accuracy(proposal.values))
        study.finish(proposal.number, accuracy(proposal.values))
    rows = leaderboard.ranked(leaderboard.rows(study), over.mode)
    result = SearchResult(folder=folder, rows=rows, bases=(), finished=True, names=columns(over), mode=over.mode)
    return over, study.entries(), result


def by_rate(values):
    """Better the larger the learning rate is; nothing else matters."""
    return 0.9 + 0.1 * math.log10(values["optimizer.lr"])


def test_the_field_that_decides_is_the_important_one_and_its_trend_and_good_values_are_told(tmp_path):
    over, entries, _ = searched(tmp_path, CONDITIONAL, by_rate)
    first, *others = fields(over, entries)
    assert first.name == "optimizer.lr"
    assert first.importance > max(other.importance for other in others)
    assert sum(field.importance for field in (first, *others)) == pytest.approx(1)
    assert first.trend == pytest.approx(1)
    rates = sorted(entry.values["optimizer.lr"] for entry in entries)
    assert first.good == f"{rates[-6]:.3g} to {rates[-1]:.3g}"  # the best quarter of 24


def test_choices_are_compared_by_their_means(tmp_path):
    over, entries, _ = searched(
        tmp_path, CONDITIONAL, lambda values: 0.8 if values["method.weight_net.optimizer"] == "adam" else 0.5
    )
    (field,) = [field for field in fields(over, entries) if field.name == "method.weight_net.optimizer"]
    adam, sgd = field.levels
    assert (adam.value, adam.mean, adam.spread) == ("adam", pytest.approx(0.8), pytest.approx(0))
    assert (sgd.value, sgd.best, adam.n + sgd.n) == ("sgd", 0.5, 24)


def test_smaller_is_better_turns_ranks_and_trends_round(tmp_path):
    over, entries, _ = searched(tmp_path, CONDITIONAL, by_rate, metric="train.meta_loss")
    (rate,) = [field for field in fields(over, entries) if field.name == "optimizer.lr"]
    assert rate.trend == pytest.approx(-1)
    assert best_of(entries, "min")[0].value == min(entry.value for entry in entries)


def test_too_few_trials_or_equal_ones_have_no_importance(tmp_path):
    over, entries, _ = searched(tmp_path / "few", CONDITIONAL, by_rate, trials=3)
    assert importances(tidy(over, entries)) == {}
    over, entries, result = searched(tmp_path / "equal", CONDITIONAL, lambda values: 0.5)
    assert {field.importance for field in fields(over, entries)} == {None}
    assert "nothing that was searched made a difference" in summary.write(over, entries, result).read_text()


def test_the_copy_keeps_numbers_values_and_the_fields_that_each_trial_has(tmp_path):
    over, entries, _ = searched(tmp_path, CONDITIONAL, by_rate, trials=8)
    copy = tidy(over, [entry for entry in entries if entry.number != 3])
    assert copy.trials[3].state == optuna.trial.TrialState.FAIL
    for entry in entries:
        if entry.number != 3:
            trial = copy.trials[entry.number]
            assert trial.value == entry.value and trial.params["lr"] == entry.values["optimizer.lr"]
            assert ("momentum" in trial.params) == ("method.weight_net.momentum" in entry.values)
            assert trial.params["augment"] in ("true", "false")


def test_short_names_tell_fields_apart():
    names = ["optimizer.momentum", "method.weight_net.momentum", "optimizer.lr"]
    assert short_names(names) == {names[0]: names[0], names[1]: "weight_net.momentum", names[2]: "lr"}


def anyhow(values):
    """Different for different points, for no reason."""
    return 0.5 + 0.01 * (crc32(str(values).encode()) % 7)


ONE = {"optimizer.lr": {"float": [0.001, 0.1], "log": True}}
CHOICE = {"method.weight_net.shape": {"choice": ["1-50-1", "1-100-1"]}}


@pytest.mark.parametrize(
    ("search", "trials", "changes", "expected"),
    [
        (ONE, 4, {}, ["importances", "history", "parallel", "slice"]),
        (ONE, 3, {}, []),
        (CONDITIONAL, 12, {"seeds": 2}, ["importances", "history", "parallel", "slice", "slice-2"]),
        (CHOICE, 2, {"seeds": 2}, ["importances", "history", "parallel", "slice"]),
    ],
    ids=["one field", "too few", "conditional", "choice over seeds"],
)
def test_whatever_was_searched_is_drawn_and_nothing_of_the_caller_is_changed(
    tmp_path, search, trials, changes, expected, caplog
):
    mine, settings = plt.figure(), dict(plt.rcParams)
    over, entries, _ = searched(tmp_path, search, anyhow, trials, **changes)
    drawn = analysis_draw.pictures(tidy(over, entries), "validation accuracy", tmp_path / "pictures")
    assert [path.stem for path in drawn] == expected
    assert not caplog.records
    for path in drawn:
        assert Image.open(path).size[0] >= 1400  # 7 in at 200 dots each
    assert plt.get_fignums() == [mine.number] and dict(plt.rcParams) == settings
    plt.close(mine)


def test_the_summary_names_the_best_its_command_what_mattered_and_how_far_to_trust_it(tmp_path):
    over, entries, result = searched(tmp_path, CONDITIONAL, by_rate)
    text = summary.write(over, entries, result).read_text()
    for part in (
        f"trial {result.best.label} |",
        f"train.py --from {tmp_path}/best.json",
        "24 finished",
        "| `optimizer.lr` |",
        "| +1.00 |",
        "standard error of",
        "(pictures/importances.png)",
        "One seed each",
    ):
        assert part in text, part


def test_the_summary_of_a_search_over_seeds_shows_means_and_calls_the_seed_chance(tmp_path):
    over, entries, result = searched(tmp_path, CHOICE, lambda v: 0.8 + 0.02 * v["seed"], trials=2, seeds=3)
    text = summary.write(over, entries, result).read_text()
    assert "each point at 3 seeds" in text and "82.0 +- 2.0" in text
    assert "differ by 0.0 % (standard deviation), seeds within a point by 2.0 %; the latter is chance" in text
    assert "2 finished points are too few" in text


def test_importances_of_a_search_over_seeds_are_those_of_the_means(tmp_path):
    """Luck is larger than what is searched: among the best trials it would be all that mattered."""
    good = {20: 0.1, 40: 0.2, 60: 0.3, 80: 0.4}
    search = {"data.num_meta": {"choice": list(good)}}
    over, entries, result = searched(
        tmp_path, search, lambda v: good[v["data.num_meta"]] + v["seed"] / 4, trials=4, seeds=3
    )
    space_of_means, means = averaged(over, entries)
    assert {entry.values["data.num_meta"]: entry.value for entry in means} == pytest.approx(
        {meta: value + 0.25 for meta, value in good.items()}
    )
    (field,) = fields(space_of_means, means)
    assert (field.name, field.importance) == ("data.num_meta", 1.0)
    assert spreads(over, entries) == pytest.approx((0.1 * math.sqrt(5 / 3), 0.25))
    assert spreads(space_of_means, means) is None
    text = summary.write(over, entries, result).read_text()
    assert "the best 2 points |" in text and "| `data.num_meta` | 100 % |" in text


def test_a_search_in_which_nothing_finished_says_so(tmp_path):
    over = space(ONE)
    result = SearchResult(folder=tmp_path, rows=(), bases=(), finished=False, names=columns(over))
    assert "No trial has finished" in summary.write(over, [], result).read_text()


def test_the_summary_tells_the_spend_what_failed_and_why_it_stopped(tmp_path):
    over, entries, result = searched(tmp_path, CONDITIONAL, by_rate, trials=3)
    failed = replace(result.rows[-1], state="failed", reason="OutOfMemoryError: 3 GiB")
    spend = {"gpu_seconds": 5400.0, "cpu_seconds": 0.0}
    told = replace(result, rows=(*result.rows[:-1], failed), spend=spend, stopped="the disk is full")
    text = summary.write(over, entries, told).read_text()
    assert "1.50 GPU-hours" in text and "Stopped: the disk is full" in text
    assert f"- trial {failed.number}: OutOfMemoryError: 3 GiB" in text
    assert "What failed" not in summary.write(over, entries, result).read_text()
