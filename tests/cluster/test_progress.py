"""Progress of many trainings: an ETA by the pace seen, and words where nothing ends for long."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from mwray.cluster import progress
from mwray.cluster.progress import Counted, Pace, eta_text, shown
from mwray.cluster.sweep import Job, Outcome
from mwray.recipes import digits


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_before_anything_has_ended_the_work_itself_says_how_long():
    assert Pace(seconds=True, clock=Clock()).eta(100.0, 0.0, flying=4) == 25.0
    assert Pace(seconds=False, clock=Clock()).eta(100.0, 0.0, flying=4) is None
    assert Pace(seconds=True, clock=Clock()).eta(None, None, flying=4) is None


def test_afterwards_the_pace_does():
    clock = Clock()
    pace = Pace(seconds=True, clock=clock)
    clock.now, pace.ended = 30.0, 2
    assert pace.eta(80.0, 20.0, flying=2) == pytest.approx(80 * 30 / 20)
    pace.ended = 1  # of two in flight, one more is as good as done: too early to judge
    assert pace.eta(80.0, 20.0, flying=2) == 40.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "ETA unknown"), (45.0, "ETA 45 s"), (600.0, "ETA 10 min"), (9000.0, "ETA 2.5 h")]
)
def test_times_as_a_person_says_them(seconds, text):
    assert eta_text(seconds) == text


def test_each_end_is_a_line_and_a_long_silence_is_broken(monkeypatch):
    monkeypatch.setattr(progress, "QUIET", 0.0)
    said = io.StringIO()
    job = Job("one", digits.uniform(), Path("one"))
    with shown(Console(file=said, width=200), Counted(3, 1)) as show:
        show(None, 2)
        show(Outcome(job, {"test.last": 0.5}), 1)
        show(Outcome(job, None, "ValueError: no"), 0)
    lines = said.getvalue().splitlines()
    assert lines[0] == "1 of 3 trainings are finished already"
    assert lines[1] == "1/3 finished, 2 in training (ETA unknown)"
    assert lines[2].startswith("2/3 one: 50.00 % test, last epoch (ETA 0 s")
    assert lines[3] == "failed one: ValueError: no"
