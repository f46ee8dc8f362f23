import io
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mwray.config import override
from mwray.experiment import Experiment
from mwray.train.sinks import ConsoleSink, PicturesSink, RunInfo, Sink, TensorBoardSink
from mwray.train.sinks.console import COLUMNS
from mwray.train.sinks.history import History
from mwray.train.sinks.pictures import Pace
from tests.train.runs import SUMMARY, arrays, info, tell, values

SINKS = [lambda: ConsoleSink(Console(file=io.StringIO())), TensorBoardSink, PicturesSink]


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120, _environ={"TERM": "xterm"})


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# --- every sink ------------------------------------------------------------------------------------------------------


def test_run_info_describes_an_experiment(tmp_path: Path) -> None:
    experiment = override(Experiment(), {"epochs": 7, "optimizer.lr": 0.05})
    run = RunInfo.of(experiment, tmp_path / "abc", 11, 3, ("cat", "dog"))
    assert (run.name, run.epochs, run.steps_per_epoch, run.first_epoch) == ("abc", 7, 11, 3)
    assert run.experiment["optimizer.lr"] == 0.05


@pytest.mark.parametrize("make", SINKS)
def test_close_without_start_and_twice(make, tmp_path: Path) -> None:
    sink: Sink = make()
    sink.close()
    tell(sink, tmp_path, [1, 2])
    sink.close()


@pytest.mark.parametrize("make", SINKS)
def test_a_run_that_shows_little_is_shown(make, tmp_path: Path) -> None:
    """A method without weights, a run without any evaluation."""
    sink: Sink = make()
    sink.start(info(tmp_path))
    sink.write(1, {"epoch": 1, "train.loss": 1.0}, {})
    sink.finish({"epochs": 1, "seconds": 1.0})
    sink.close()
    assert not (tmp_path / "weights.png").exists()


@pytest.mark.parametrize("make", [lambda: ConsoleSink(terminal()), TensorBoardSink, PicturesSink])
def test_a_step_costs_next_to_nothing(make, tmp_path: Path) -> None:
    sink: Sink = make()
    sink.start(info(tmp_path))
    started = time.thread_time()  # of this thread alone: others may have the machine
    for step in range(10_000):
        sink.step(0, step)
    seconds = time.thread_time() - started
    sink.close()
    assert seconds / 10_000 < 20e-6  # a step of training takes milliseconds


# --- console ---------------------------------------------------------------------------------------------------------


def test_pipe_gets_plain_lines(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=40)
    tell(ConsoleSink(console), tmp_path, [1, 2, 3, 4])
    lines = text(console).splitlines()
    assert "\x1b" not in text(console)
    assert lines[0].endswith(f"4 epochs of 10 steps, in {tmp_path}")  # not broken at 40 columns
    heading, *epochs = lines[1:6]
    assert heading.split() == ["epoch", "lr", "loss", "test", "w", "AUC", "img/s", "s"]
    assert epochs[1].split() == ["2/4", "0.1", "1.000", "20.0%", "0.900", "5,000", "2.0"]
    assert {len(line) for line in epochs} == {len(heading)}
    assert any("oracle" in line and line.endswith("40.00%") for line in lines)


def test_vectors_are_called_vectors(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True, _environ={"TERM": "xterm"})
    sink = ConsoleSink(console)
    sink.start(replace(info(tmp_path, batch_size=50), noun="vector"))
    sink.write(1, values(1), {})
    bar = sink.progress
    assert "vec/s" in text(console) and "img/s" not in text(console)
    assert bar.columns[3].render(SimpleNamespace(speed=20.0)).plain == "1,000 vectors/s"
    sink.close()


def test_a_short_run_has_no_last_five_epochs_and_one_epoch_is_no_plural(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    sink = ConsoleSink(console)
    sink.start(replace(info(tmp_path), epochs=1, steps_per_epoch=1))
    sink.write(1, values(1), {})
    sink.finish({**SUMMARY, "epochs": 1})
    said = text(console)
    assert "1 epoch of 1 step, in" in said and "finished 1 epoch in 8 s" in said
    assert "test accuracy, last epoch" in said and "last five" not in said
    sink.finish({**SUMMARY, "epochs": 5})
    assert "mean of the last five epochs" in text(console)


def test_a_terminal_too_narrow_for_a_line_gets_a_shorter_one(tmp_path: Path) -> None:
    every = dict.fromkeys(COLUMNS, 0.5) | {"lr": 0.000985}
    for width, left_out in ((120, set()), (104, {"s"}), (80, {"s", "img/s", "lr", "AUC"})):
        xterm = {"force_terminal": True, "force_interactive": False, "_environ": {"TERM": "xterm"}}  # without a bar
        console = Console(file=io.StringIO(), width=width, **xterm)
        sink = ConsoleSink(console)
        sink.start(info(tmp_path))
        sink.write(1, every, {})
        heading, epoch = text(console).splitlines()[1:3]
        assert len(heading) == len(epoch) <= width
        assert {"s", "img/s", "lr", "AUC"} - set(heading.split()) == left_out


def test_resumed_run_says_where_it_goes_on(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    tell(ConsoleSink(console), tmp_path, [3, 4])
    assert "goes on after epoch 2" in text(console)
    assert "3/4" in text(console)


def test_value_missing_in_a_later_epoch_is_a_dash(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    sink = ConsoleSink(console)
    sink.start(info(tmp_path))
    sink.write(1, {"train.loss": 1.0, "test.accuracy": 0.5}, {})
    sink.write(2, {"train.loss": 1.0}, {})
    assert text(console).splitlines()[-1].split() == ["2/4", "1.000", "-"]


def test_names_with_brackets_are_no_markup(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    folder = tmp_path / "[bold]"
    folder.mkdir()
    tell(ConsoleSink(console), folder, [1])
    assert "[bold]: 4 epochs" in text(console)


def test_terminal_shows_a_bar_and_clears_it(tmp_path: Path) -> None:
    console = terminal()
    sink = ConsoleSink(console)
    sink.start(info(tmp_path, first_epoch=1))
    assert sink.progress is not None
    sink.shown -= 1  # as if the last update were long ago
    sink.step(1, 1)
    (task,) = sink.progress.tasks
    assert (task.completed, task.total, task.description) == (11, 40, "epoch 2/4")
    sink.write(2, values(2), {})
    assert task.completed == 20
    sink.progress.refresh()
    assert "20/40" in text(console)
    sink.finish({"epochs": 4, "seconds": 8.0})
    assert text(console).endswith("finished 4 epochs in 8 s\n")
    assert "\x1b[?25h" in text(console)  # the cursor is back


def test_bar_is_closed_after_an_error(tmp_path: Path) -> None:
    console = terminal()
    with pytest.raises(KeyError):
        tell(ConsoleSink(console), tmp_path, [1], arrays_of=lambda epoch: {}[epoch])
    shown, hidden = text(console).rfind("\x1b[?25h"), text(console).rfind("\x1b[?25l")
    assert shown > hidden >= 0


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_are_drawn_at_the_end(tmp_path: Path) -> None:
    tell(PicturesSink(), tmp_path, [1, 2, 3, 4])
    pictures = {"weights.png", "confusion.png", "curves.png", "method.png"}
    assert {path.name for path in tmp_path.iterdir()} == {"curves.npz", *pictures}
    for path in tmp_path.glob("*.png"):
        Image.open(path).verify()


def test_pictures_of_a_run_that_broke_off(tmp_path: Path) -> None:
    tell(PicturesSink(), tmp_path, [1, 2], finish=False)
    assert (tmp_path / "weights.png").exists()


def test_pace_draws_now_and_then_only(tmp_path: Path) -> None:
    now = iter([0.0, 10.0, 31.0, 31.0, 40.0, 62.0, 62.0])
    pace = Pace(30, clock=lambda: next(now))
    assert [pace.due() for _ in range(4)] == [False, True, False, True]


def test_pace_keeps_drawing_to_a_twentieth_of_the_time_on_a_busy_machine() -> None:
    now = [0.0]
    pace = Pace(30, clock=lambda: now[0])
    now[0] = 31
    assert pace.due()
    now[0] = 41  # it took ten seconds
    pace.drawn()
    now[0] = 31 + 199
    assert not pace.due()
    now[0] = 31 + 201
    assert pace.due()
    pace.drawn()  # at once
    now[0] += 31
    assert pace.due()


@pytest.mark.parametrize("make", [TensorBoardSink, PicturesSink])
def test_short_run_draws_once(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mwray.reports import draw

    drawn: list[int] = []
    original = draw.confusion
    monkeypatch.setattr(draw, "confusion", lambda *given: (drawn.append(1), original(*given))[1])
    tell(make(), tmp_path, [1, 2, 3, 4])
    assert len(drawn) == 1
    tell(make(every=0), tmp_path / "again", [1, 2, 3, 4])
    assert len(drawn) == 1 + 4


def test_finished_run_started_again_keeps_its_pictures(tmp_path: Path) -> None:
    tell(PicturesSink(), tmp_path, [1, 2, 3, 4])
    before = (tmp_path / "weights.png").stat().st_mtime_ns
    sink = PicturesSink()
    sink.start(info(tmp_path, first_epoch=4))
    sink.finish({})
    sink.close()
    assert (tmp_path / "weights.png").stat().st_mtime_ns == before


def load(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "curves.npz", allow_pickle=False) as file:
        return dict(file)


def test_resumed_history_equals_one_that_never_stopped(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    tell(PicturesSink(), whole, [1, 2, 3, 4])
    tell(PicturesSink(), stopped, [1, 2, 3], finish=False)
    tell(PicturesSink(), stopped, [3, 4])  # epoch 3 was shown but its checkpoint was lost: it is trained again
    expected, found = load(whole), load(stopped)
    assert list(found["epochs"]) == [1, 2, 3, 4]
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_history_keeps_values_and_curves(tmp_path: Path) -> None:
    tell(PicturesSink(), tmp_path, [1, 2, 3])
    history = History(tmp_path / "curves.npz")
    history.load(2)
    np.testing.assert_allclose(history.columns()["test.accuracy"], [0.1, 0.2])
    curves = history.curves()
    assert curves is not None
    np.testing.assert_array_equal(curves.epochs, [1, 2])
    np.testing.assert_array_equal(curves.weights[1], arrays(2)["curve.weight"])


def test_history_from_the_start_forgets_the_file(tmp_path: Path) -> None:
    tell(PicturesSink(), tmp_path, [1, 2, 3])
    tell(PicturesSink(), tmp_path, [1])
    assert list(load(tmp_path)["epochs"]) == [1]


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_damaged_history_is_passed_over_with_a_warning(content: bytes, tmp_path: Path, caplog) -> None:
    (tmp_path / "curves.npz").write_bytes(content)
    tell(PicturesSink(), tmp_path, [3, 4])
    assert "pictures begin at epoch 3" in caplog.text
    assert list(load(tmp_path)["epochs"]) == [3, 4]


def test_history_with_pickled_objects_is_not_run(tmp_path: Path, caplog) -> None:
    np.savez(tmp_path / "curves.npz", epochs=np.array([1]), names=np.array([print], dtype=object))
    history = History(tmp_path / "curves.npz")
    history.load(1)
    assert history.records == []
    assert "allow_pickle" in caplog.text
