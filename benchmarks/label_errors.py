"""Who finds the wrong labels: rankings of all training samples, and what a classifier reaches after each, over seeds.

    pip install -e '.[bench]' -c constraints.txt
    python -m benchmarks.label_errors                   digits as rows of pixels, three kinds of noise, five seeds
    python -m benchmarks.label_errors --data cifar10    10,000 images by `benchmarks.patches`, three seeds: hours

All but the logistic regression train the same network (`mlp`) by the same loop. cleanlab ranks by out-of-sample
probabilities of plain training (five folds), as its documentation asks for, and trains again without what it takes for
wrong; around a logistic regression too, which cannot learn wrong labels by heart. It knows of no clean samples; "with
clean ones" it gets those that Meta-Weight-Net has, as right samples among the others.

Columns: average precision of the ranking (1: every wrong label before every right one; the share of wrong ones is what
chance gives), precision among as many samples as there are wrong labels, and accuracy on test samples.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import cross_val_predict, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mwray
from benchmarks.patches import features
from benchmarks.timing import surroundings
from mwray.data.sources import load
from mwray.reports.draw import BLUE, GREY, VERMILION, save, styled

Array = NDArray[Any]
Found = tuple[Array, float]
"""A score [N] that is higher for what is more likely wrong, and test accuracy."""
Results = dict[str, dict[str, list[dict[str, Any]]]]
"""By kind of noise and way, a mapping for each seed."""
SHARES = np.linspace(0.02, 1.6, 80)
"""Places of the ranking that the picture shows, as shares of the number of wrong labels."""
NOISE = {"40 % uniform": 0.4, "60 % uniform": 0.6, "40 % flip": 0.4}


@dataclass(frozen=True)
class Pool:
    """Samples with right labels, `clean` of which are held out for each seed, and test samples."""

    x: Array
    y: Array
    test_x: Array
    test_y: Array
    clean: int


def digits() -> Pool:
    """scikit-learn's, as rows of pixels."""
    x, test_x, y, test_y = _cut(*load_digits(return_X_y=True), 500, 0)
    return Pool(x, y, test_x, test_y, 100)


def cifar10() -> Pool:
    """11,000 images to train with, 5,000 to test with, as responses to patches."""
    source = load("cifar10")
    print("learning patches of CIFAR-10 ...", flush=True)
    vectors = features(np.concatenate([source.train_images[:11_000].numpy(), source.test_images[:5000].numpy()]))
    labels, test = source.train_labels[:11_000].numpy(), source.test_labels[:5000].numpy()
    return Pool(vectors[:11_000], labels, vectors[11_000:], test, 1000)


DATA: dict[str, tuple[str, Callable[[], Pool], int]] = {
    "digits": ("digits", digits, 5),
    "cifar10": ("CIFAR-10", cifar10, 3),
}
"""By name: title, pool, seeds."""


class Task:
    """One seed's data: `wrong` says which of the training labels `y` are not the right ones."""

    def __init__(self, pool: Pool, noise: str, seed: int) -> None:
        self.test_x, self.test_y = pool.test_x, pool.test_y
        self.x, self.clean_x, right, self.clean_y = _cut(pool.x, pool.y, pool.clean, seed)
        random = np.random.default_rng(seed)
        uniform, flipped = random.integers(0, 10, len(right)), (right + random.integers(1, 3, len(right))) % 10
        other = uniform if "uniform" in noise else flipped
        self.y = np.where(random.random(len(right)) < NOISE[noise], other, right)
        self.wrong = self.y != right
        self.clean, self.seed = (self.clean_x, self.clean_y), seed


def _cut(features: Array, labels: Array, size: int, seed: int) -> list[Array]:
    return list(train_test_split(features, labels, test_size=size, stratify=labels, random_state=seed))


def ours(task: Task, method: str) -> Found:
    """A method of this package: samples by falling trust, as `suspects_` has them."""
    model = mwray.Classifier(method, seed=task.seed, verbose=False).fit(task.x, task.y, clean=task.clean)
    score = np.empty(len(task.y))
    score[model.suspects_] = np.arange(len(task.y), 0, -1)
    return score, model.score(task.test_x, task.test_y)


def cleanlab(task: Task, with_clean: bool, linear: bool = False) -> Found:
    """cleanlab's CleanLearning around plain training, or around a logistic regression."""
    from cleanlab.classification import CleanLearning

    x, y = task.x, task.y
    if with_clean:
        x, y = np.concatenate([x, task.clean_x]), np.concatenate([y, task.clean_y])
    plain: Any = mwray.Classifier("base", seed=task.seed, verbose=False)
    if linear:
        plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    learner = CleanLearning(plain, seed=task.seed, cv_n_folds=5).fit(x, y)
    quality = np.asarray(learner.get_label_issues()["label_quality"])[: len(task.y)]
    return -quality, float(np.mean(learner.predict(task.test_x) == task.test_y))


def held_out_loss(task: Task) -> Found:
    """What cleanlab starts from, alone: the out-of-sample probability of the given label."""
    plain = mwray.Classifier("base", seed=task.seed, verbose=False)
    chances = cross_val_predict(plain, task.x, task.y, cv=5, method="predict_proba")
    accuracy = plain.fit(task.x, task.y).score(task.test_x, task.test_y)
    return -chances[np.arange(len(task.y)), task.y], accuracy


WAYS: dict[str, Callable[[Task], Found]] = {
    "plain training, by loss": lambda task: ours(task, "base"),
    "plain training, by loss out of sample": held_out_loss,
    "cleanlab": lambda task: cleanlab(task, False),
    "cleanlab, with clean ones": lambda task: cleanlab(task, True),
    "cleanlab, logistic regression": lambda task: cleanlab(task, False, linear=True),
    "cleanlab, logistic regression, with clean ones": lambda task: cleanlab(task, True, linear=True),
    "Self-paced": lambda task: ours(task, "self-paced"),
    "GLC": lambda task: ours(task, "glc"),
    "Meta-Weight-Net": lambda task: ours(task, "mwnet"),
}


def measured(task: Task, way: str) -> dict[str, Any]:
    """One row's numbers for one seed; "curve": precision among the first so many, a mark at each of `SHARES`."""
    began = time.perf_counter()
    score, accuracy = WAYS[way](task)
    ranked = task.wrong[np.argsort(-score, kind="stable")]
    found, count = np.cumsum(ranked) / np.arange(1, len(ranked) + 1), int(task.wrong.sum())
    return {
        "average_precision": float(average_precision_score(task.wrong, score)),
        "precision": float(found[count - 1]),
        "curve": [float(found[max(int(share * count), 1) - 1]) for share in SHARES],
        "accuracy": accuracy,
        "seconds": time.perf_counter() - began,
    }


def main() -> None:
    """Measure, print, and write NAME-label-errors.json and its picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=tuple(DATA), default="digits")
    parser.add_argument("--seeds", type=int, help="default: 5 of digits, 3 of CIFAR-10")
    parser.add_argument("--ways", default=";".join(WAYS), metavar="A;B;..", help=f"of {'; '.join(WAYS)}")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"))
    options = parser.parse_args()
    title, pool, seeds = DATA[options.data]
    options.out.mkdir(parents=True, exist_ok=True)
    for results in measure(title, pool(), options.seeds or seeds, options.ways.split(";")):
        found = {"surroundings": surroundings("cpu"), "results": results}
        (options.out / f"label-errors-{options.data}.json").write_text(json.dumps(found, indent=1))
        save(drawn(results), options.out / f"label-errors-{options.data}.png")


def measure(title: str, pool: Pool, seeds: int, ways: Sequence[str]) -> Iterator[Results]:
    """All ways on all kinds of noise, a table for each kind; what there is after each."""
    results: Results = {}
    began, done, total = time.perf_counter(), 0, len(NOISE) * seeds * len(ways)
    for noise in NOISE:
        rows = results.setdefault(f"{title}, {noise}", {way: [] for way in ways})
        for seed in range(seeds):
            task = Task(pool, noise, seed)
            for way in ways:
                rows[way].append(measured(task, way))
                done += 1
                left = (time.perf_counter() - began) / done * (total - done)
                print(f"{done}/{total}: {noise}, seed {seed}, {way} (ETA {left / 60:.0f} min)", flush=True)
        _print(f"{title}, {noise}", rows)
        yield results


@styled
def drawn(results: Results) -> Figure:
    """Precision among the first so many samples of each ranking, mean over seeds; a panel for each kind of noise."""
    figure = Figure(figsize=(3.4 * len(results), 3.6), layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, (noise, rows) in zip(panels, results.items(), strict=True):
        for way, (color, style) in LINES.items():
            if way not in rows:
                continue
            axes.plot(SHARES, np.mean([one["curve"] for one in rows[way]], 0), color=color, linestyle=style, label=way)
        axes.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_title(noise, fontsize=9, loc="left")
        axes.set_xlabel("samples looked at / wrong labels")
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    figure.axes[0].set_ylabel("of them wrong")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return figure


LINES = {
    "Meta-Weight-Net": (VERMILION, "-"),
    "GLC": (BLUE, "-"),
    "Self-paced": (BLUE, "--"),
    "cleanlab, with clean ones": ("black", "-"),
    "cleanlab, logistic regression, with clean ones": ("black", "--"),
    "plain training, by loss": (GREY, "--"),
}
"""Ways that the picture shows."""


def _print(title: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    table = Table("way", "average precision", "precision", "test accuracy, %", "seconds", title=title)
    for way, found in rows.items():
        table.add_row(way, *(_cell(found, name, scale) for name, scale in COLUMNS.items()))
    Console(width=120).print(table)


COLUMNS = {"average_precision": 1.0, "precision": 1.0, "accuracy": 100.0, "seconds": 1.0}


def _cell(found: Sequence[Mapping[str, Any]], name: str, scale: float) -> str:
    values = [scale * one[name] for one in found]
    digits = 3 if scale == 1.0 and name != "seconds" else 1
    spread = f" +- {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


if __name__ == "__main__":
    main()
