import io
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mwray.reports import draw
from mwray.reports.picture_data import Curves, Samples


def some_curves(epochs: int = 5) -> Curves:
    losses = np.tile(np.linspace(0, 8, 50), (epochs, 1))
    steep = np.arange(1, epochs + 1)[:, None]
    return Curves(np.arange(1, epochs + 1), losses, 1 / (1 + np.exp(steep * (losses - 2))))


def some_samples(weights: bool = True, wrong: float = 0.4) -> Samples:
    rng = np.random.default_rng(0)
    clean = rng.random(200) >= wrong
    losses = np.where(clean, rng.exponential(0.3, 200), rng.uniform(2, 9, 200))
    losses[:5] = np.nan
    return Samples(losses, clean, np.exp(-losses) if weights else None)


def titles(figure: Figure) -> set[str]:
    return {axes.get_title(loc="left") or axes.get_title() for axes in figure.axes}


def x_labels(figure: Figure) -> set[str]:
    return {axes.get_xlabel() for axes in figure.axes}


@pytest.mark.parametrize(
    ("figure", "size"),
    [
        (lambda: draw.weights(some_curves(), some_samples()), (1400, 600)),
        (lambda: draw.weights(some_curves(1), None), (840, 600)),
        (lambda: draw.weight_curve(some_curves(), some_samples()), (840, 600)),
        (lambda: draw.weight_histogram(some_samples(wrong=0)), (840, 600)),
        (lambda: draw.confusion(np.eye(10, dtype=int), [str(i) for i in range(10)]), (920, 800)),
        (lambda: draw.confusion(np.eye(100, dtype=int), [f"class {i}" for i in range(100)]), (920, 800)),
        (lambda: draw.training({"epoch": np.arange(1.0, 4), "test.accuracy": np.array([0.1, 0.5, 0.9])}), (1400, 580)),
    ],
)
def test_pictures_decode_and_have_their_size(figure, size: tuple[int, int]) -> None:
    image = Image.open(io.BytesIO(draw.png(figure(), dpi=200)))
    image.load()
    assert image.size == size
    assert np.asarray(image.convert("L")).std() > 5  # not a blank sheet


def test_curves_end_in_black_and_the_newest_is_last() -> None:
    curves = some_curves(30)
    lines = draw.weights(curves, some_samples()).axes[0].lines
    assert len(lines) == 12
    assert lines[-1].get_color() == "#000000"
    np.testing.assert_array_equal(lines[-1].get_ydata(), curves.weights[-1])
    np.testing.assert_array_equal(lines[0].get_ydata(), curves.weights[0])


@pytest.mark.parametrize(
    ("curves", "samples", "expected"),
    [
        (some_curves(), some_samples(), {"sample weight / mean weight", "training loss $L$ (nats, square-root scale)"}),
        (some_curves(), some_samples(weights=False), {"training loss $L$ (nats, square-root scale)"}),
        (None, some_samples(), {"sample weight / mean weight"}),
    ],
)
def test_halves_without_data_are_left_out(curves, samples, expected: set[str]) -> None:
    assert x_labels(draw.weights(curves, samples)) - {""} == expected


@pytest.mark.parametrize("samples", [None, some_samples(weights=False)])
def test_nothing_to_draw_is_refused(samples: Samples | None) -> None:
    with pytest.raises(ValueError, match="no weight function"):
        draw.weights(None, samples)


@pytest.mark.parametrize("weights", [np.nan, 0.0, np.inf])
def test_weights_that_went_wrong_do_not_stop_a_run(weights: float) -> None:
    curves = some_curves(2)
    broken = Curves(curves.epochs, curves.losses, np.full_like(curves.weights, weights))
    samples = some_samples()
    assert draw.png(draw.weights(broken, Samples(samples.losses, samples.clean, np.full(200, weights))))


def test_confusion_writes_percent_of_the_true_class() -> None:
    figure = draw.confusion(np.array([[3, 1], [0, 4]]), ["cat", "dog"])
    axes = figure.axes[0]
    assert {(text.get_position(), text.get_text()) for text in axes.texts} == {
        ((0, 0), "75"),
        ((1, 0), "25"),
        ((1, 1), "100"),
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert "8 samples, accuracy 87.5%" in titles(figure)


def test_confusion_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3, 3\] does not fit 2 class names"):
        draw.confusion(np.eye(3), ["cat", "dog"])


def test_training_draws_what_was_measured_and_marks_the_schedule() -> None:
    epochs = np.arange(1.0, 5)
    values = {
        "epoch": epochs,
        "lr": np.array([0.1, 0.1, 0.01, 0.01]),
        "test.accuracy": epochs / 10,
        "train.loss": epochs,
    }
    accuracy, loss = draw.training(values).axes
    assert [text.get_text() for text in accuracy.get_legend().get_texts()] == ["test"]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training"]
    mark, line = accuracy.lines
    assert list(mark.get_xdata()) == [2, 2]
    np.testing.assert_array_equal(line.get_ydata(), epochs / 10)


def test_pixels_are_an_image() -> None:
    found = draw.pixels(draw.weight_histogram(some_samples()), dpi=100)
    assert (found.shape, found.dtype) == ((300, 420, 3), np.uint8)


def test_save_replaces_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    draw.save(draw.weight_histogram(some_samples()), path)
    Image.open(path).verify()
    assert [found.name for found in tmp_path.iterdir()] == ["picture.png"]


def test_callers_matplotlib_settings_are_left_alone() -> None:
    before = dict(mpl.rcParams)
    draw.weight_histogram(some_samples())
    assert dict(mpl.rcParams) == before


def test_neither_torch_nor_pyplot_is_imported() -> None:
    code = "import sys, mwray.reports.draw; sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib.pyplot')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
