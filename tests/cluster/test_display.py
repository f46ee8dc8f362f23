"""What a search shows: lines in a log, a table on a terminal, and the end."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from mwray.cluster import board as boards
from mwray.cluster.board import Board
from mwray.cluster.display import LiveTable, Plain, Silent, make, report
from mwray.cluster.leaderboard import SearchResult, columns, row_of
from mwray.cluster.names import clock, heading, plain
from mwray.cluster.study import Study
from tests.cluster.helpers import finish_run, space


@pytest.fixture
def row(tmp_path):
    study = Study(space(set={"epochs": 10, "optimizer.milestones": []}), tmp_path)
    return row_of(study.next(), study.space)


NAMES = columns(space())


def test_what_is_chosen_by_name_is_called_by_what_it_is():
    searched = ("method.name", "optimizer.name", "optimizer.schedule", "optimizer.lr")
    assert [heading(name) for name in searched] == ["method", "optimizer", "schedule", "lr"]


def console(terminal=False):
    return Console(file=io.StringIO(), force_terminal=terminal, width=140, height=30)


def text_of(screen):
    return screen.console.file.getvalue()


def test_a_log_has_one_line_for_each_change_of_state_and_none_for_an_epoch(row):
    screen = Plain(console())
    screen.begin([], 3, NAMES)
    screen.changed(row)
    screen.changed(replace(row, state="running"))
    for epoch in range(1, 10):
        screen.changed(replace(row, state="running", epoch=epoch, validation=0.1 * epoch))
    screen.changed(replace(row, state="finished", epoch=10, validation=0.935, seconds=14.2))
    lines = text_of(screen).splitlines()
    assert len(lines) == 3
    assert lines[0] == "3 trainings"
    assert "trial 0 running: weight net 1-100-1, meta samples 100, lr 0.1" in lines[1]
    assert "[1/3" in lines[2] and "trial 0 finished: validation 93.5 % after epoch 10, 14 s" in lines[2]


def test_a_log_shows_a_failure_with_its_reason(row):
    screen = Plain(console())
    screen.begin([row], 1, NAMES)
    screen.changed(replace(row, state="failed", reason="NonFiniteLoss: epoch 3"))
    assert text_of(screen).splitlines()[-1].endswith("trial 0 failed: NonFiniteLoss: epoch 3")


def test_the_table_shows_every_trial_with_epoch_accuracy_and_what_is_left(row, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(boards.time, "monotonic", lambda: now[0])
    screen = LiveTable(console(terminal=True))
    screen.board, screen.names = Board([row], 2), NAMES
    screen.board.put(replace(row, state="running"))
    now[0] += 30
    screen.board.put(replace(row, state="running", epoch=5, validation=0.5))
    screen.console.print(screen.render())
    shown = text_of(screen)
    for part in ("weight-net", "1-100-1", "5/10", "50.0 %", "0:30", "0 of 2 trainings", "about 1:30 left"):
        assert part in shown


def test_the_time_left_counts_this_session_alone_and_trials_not_begun(row, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(boards.time, "monotonic", lambda: now[0])
    before = replace(row, state="finished", epoch=10)
    board = Board([before, replace(row, number=1)], 4)
    assert board.left() is None
    now[0] = 20
    board.put(replace(row, number=1, state="running", epoch=5))
    assert board.left() == pytest.approx((40 - 15) * 20 / 5)
    assert board.share() == pytest.approx(15 / 40)
    board.put(replace(row, number=1, state="pruned", epoch=5))
    assert board.share() == pytest.approx(20 / 40)


def test_many_trials_leave_the_running_ones_in_sight(row):
    screen = LiveTable(Console(file=io.StringIO(), force_terminal=True, width=140, height=16))
    rows = [replace(row, number=n, state="finished") for n in range(50)] + [replace(row, number=77, state="running")]
    screen.board, screen.names = Board(rows, 60), NAMES
    screen.console.print(screen.render())
    assert "77" in text_of(screen)
    assert len(text_of(screen).splitlines()) <= 16
    assert "41 rows not shown" in text_of(screen)


def test_the_live_table_opens_and_closes_and_shows_failures_above_it(row):
    screen = LiveTable(console(terminal=True))
    screen.begin([row], 2, NAMES)
    screen.changed(replace(row, state="failed", reason="ValueError: no"))
    screen.close()
    assert "trial 0 failed: ValueError: no" in text_of(screen)


def test_the_end_names_the_best_its_picture_its_checkpoint_and_the_command(tmp_path):
    study = Study(space(), tmp_path)
    proposal = study.next()
    finish_run(proposal.folder, proposal.experiment, 0.935)
    (proposal.folder / "weights.png").touch()
    (proposal.folder / "checkpoint-000002-0123456789abcdef.pt").touch()
    row = row_of(proposal, study.space, "finished")
    failed = replace(row, number=1, state="failed", reason="ValueError: no")
    base = replace(row, number=None, validation=0.5)
    result = SearchResult(folder=tmp_path, rows=(row, failed), bases=(base,), finished=True, names=NAMES)
    out = console()
    report(result, out)
    shown = out.file.getvalue()
    for part in ("93.5 %", "83.5 %", "BaseModel", "50.0 %", str(proposal.folder / "weights.png"), "checkpoint-000002"):
        assert part in shown
    assert f"{sys.executable} -m tensorboard.main --logdir {tmp_path / 'trials'} --host 127.0.0.1" in shown
    assert "trial 1 failed: ValueError: no" in shown and "failure.json" not in shown
    assert shown.index("93.5 %") < shown.index("50.0 %")


def test_the_display_fits_where_the_output_goes():
    assert isinstance(make(console(), shown=True), Plain)
    assert isinstance(make(console(terminal=True), shown=True), LiveTable)
    assert isinstance(make(console(terminal=True), shown=False), Silent)


def test_values_and_times_are_short():
    assert [plain(v) for v in (None, 0.00123456, "1-50-1", [30, 36], True)] == [
        "-",
        "0.00123",
        "1-50-1",
        "[30, 36]",
        "true",
    ]
    assert [clock(s) for s in (0.4, 61, 3725)] == ["0:00", "1:01", "1:02:05"]
