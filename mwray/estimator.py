"""The trainings of this package behind scikit-learn's interface, for arrays in memory: `Classifier().fit(X, y)`.

It is the loop of `mwray.train.loop` and nothing beside it: what `fit` trains is what `mwray train` trains on the same
arrays, to the same bits.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from mwray.config import ConfigError, fingerprint, leaves, override
from mwray.data.given import given
from mwray.data.loader import at_once
from mwray.data.own import OwnData, OwnFeatures
from mwray.estimator_arrays import Pair, beside, own_data, plain, to_fit, to_predict
from mwray.experiment import Experiment
from mwray.methods.registry import METHODS
from mwray.recipes import recipe
from mwray.records import Run
from mwray.reports import draw
from mwray.reports.picture_data import Samples
from mwray.studies.presets import milestones
from mwray.train.classifier import TrainedClassifier, load
from mwray.train.loop import train
from mwray.train.sinks import ConsoleSink, PicturesSink, Sink, TensorBoardSink
from mwray.train.sinks.arrays import ArraysSink
from mwray.train.sinks.history import History
from mwray.train.suspects import restored, suspects
from mwray.worker import LocalWorker

MOST_META = 1000
"""Meta samples that are taken at most: as many as the paper has (section 4)."""
FEWEST_META = 100
"""Meta samples that are held out of the training samples where no clean ones are given, if there are enough."""


class Classifier(ClassifierMixin, BaseEstimator):
    """A classifier for labels some of which are wrong, or of which some classes have few.

    X is uint8 [N, H, W] or [N, H, W, C] for images, or numbers [N, D] for feature vectors - embeddings, the rows of a
    table. Labels are numbers or texts. `clone`, `cross_val_score`, `GridSearchCV` and pipelines take it as any other
    estimator; `settings` reaches every field that `--set` does.

    Attributes:
        classes_: labels [C], sorted; the columns of `predict_proba`.
        classifier_: the network, as `mwray.load` gives it.
        experiment_: all settings of the training.
        history_: what each epoch measured, by dotted names, as records.jsonl has it.
        summary_: what the run came to.
        sample_loss_: float32 [N], cross-entropy of each row of X with its given label, at the end; NaN where it was
            held out.
        sample_weight_: float32 [N], what the learned function gives to that loss, likewise; None where the method has
            none.
        suspects_: int64, rows of X, those first whose labels are trusted least: of the largest loss. Held out rows are
            not among them.
        run_: the run's folder, if it was kept.
    """

    def __init__(
        self,
        method: str = "mwnet",
        *,
        model: str | None = None,
        epochs: int = 40,
        batch_size: int | None = None,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        folder: str | Path | None = None,
        device: str | None = None,
        verbose: bool = True,
    ) -> None:
        """Keep the arguments as they are; `fit` checks them.

        Args:
            method: a name of `mwray.methods.registry.METHODS`, "base" being plain training.
            model: a network's name, or "package.module:factory"; None: "small" for images, "mlp" for vectors.
            epochs: passes over the data. Vectors are learned by AdamW, its rate 1e-3 falling by a cosine; images by
                SGD, whose 0.1 is divided by 10 after three quarters and nine tenths of them.
            batch_size: None: 100; of fewer than 1,000 samples a tenth of them, and at least 10.
            seed: of weights, order, crops and what is held out.
            settings: further fields by dotted name, for example {"optimizer.lr": 0.05}; they have the last word.
            folder: where the run is kept, in a folder of its own by its settings and arrays: records, pictures,
                checkpoints, TensorBoard. A fit that was stopped goes on from there with the same call. None: nowhere.
            device: "cpu", "cuda"; None: a GPU if there is one.
            verbose: show progress with the time left, and a line for each epoch.
        """
        self.method = method
        self.model = model
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self.settings = settings
        self.folder = folder
        self.device = device
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: ArrayLike, *, clean: Pair | None = None, test: Pair | None = None) -> Classifier:  # noqa: N803 - scikit-learn's name
        """Train on `X` with the labels `y`, of which some may be wrong.

        Args:
            X: images or vectors, as the class says.
            y: labels [N], each class at least once.
            clean: samples and labels that were checked, beside X: what the method learns from, class-balanced, up to
                1,000 of them. Without them they are held out of X, and are right only where y is.
            test: samples with right labels, measured after every epoch and used for nothing else.

        Raises:
            ConfigError: an array or a setting cannot be used: names it, what was given and what would do.
            NonFiniteLoss: training diverged.
            LockedError: another process trains in the same folder.
        """
        X, y = to_fit(self, X, y)  # noqa: N806
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ConfigError(f"y: holds one class only, {self.classes_[0]}; two or more are needed")
        others = [beside(self, name, pair, self.classes_) for name, pair in (("clean", clean), ("test", test))]
        data = own_data(X, codes, others[0], others[1], self.classes_)
        with given(data) as name, self._place() as parent:
            self.experiment_ = self._experiment(name, data)
            folder = parent / f"{self.method}-{fingerprint(self.experiment_)}"
            self.summary_ = train(self.experiment_, folder, worker=LocalWorker(self.device), sinks=self._sinks())
            self.classifier_: TrainedClassifier = load(folder, self.device)
            self.history_ = Run(folder).records()
            self._pictured = History(folder / "curves.npz")
            self._pictured.load(len(self.history_))
            self._look_at_samples(folder, len(codes))
            self.run_ = folder if self.folder is not None else None
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """Logits [N, C] of samples as `fit` takes them; of two classes [N], the second's above the first's.

        Raises:
            NotFittedError: there was no `fit`.
            InputError: the samples have another shape or type than those of `fit`; a ValueError, as scikit-learn's are.
        """
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """Probabilities [N, C], by the softmax of the logits; errors as `decision_function`."""
        return torch.from_numpy(self._logits(X)).softmax(1).numpy()

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Labels [N], of the kind that `fit` was given; errors as `decision_function`."""
        best = self._logits(X).argmax(1)
        return np.asarray(self.classes_[best])

    def draw(self) -> Figure:
        """The weight function over the epochs with the weights of all samples, or the curves of a method without one.

        Raises:
            NotFittedError: there was no `fit`.
        """
        check_is_fitted(self, "classifier_")
        curves = self._pictured.curves()
        if curves is None and self.sample_weight_ is None:
            return draw.in_notebooks(draw.training(self._pictured.columns()))
        there = ~np.isnan(self.sample_loss_)
        weights = None if self.sample_weight_ is None else self.sample_weight_[there]
        return draw.in_notebooks(draw.weights(curves, Samples(self.sample_loss_[there], None, weights)))

    def __sklearn_tags__(self) -> Any:
        """Images have more than two dimensions."""
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _logits(self, X: ArrayLike) -> NDArray[np.float64]:  # noqa: N803
        """Of all classes [N, C]."""
        check_is_fitted(self, "classifier_")
        samples = to_predict(self, X)
        logits = [np.zeros((0, len(self.classes_)))]
        some = at_once(self.classifier_.shape)
        for start in range(0, len(samples), some):
            part = torch.from_numpy(np.array(samples[start : start + some]))
            logits.append(self.classifier_(part).double().cpu().numpy())
        return np.concatenate(logits)

    @contextmanager
    def _place(self) -> Iterator[Path]:
        """The folder for the run's folder."""
        if self.folder is not None:
            if Path(self.folder).exists() and not Path(self.folder).is_dir():
                raise ConfigError(f"folder: {self.folder} is a file; give a folder, made if it is not there")
            yield Path(self.folder)
            return
        with tempfile.TemporaryDirectory(prefix="mwray-") as folder:
            yield Path(folder)

    def _sinks(self) -> list[Sink]:
        shown: list[Sink] = [ConsoleSink()] if self.verbose else []
        if self.folder is None:
            return [*shown, PicturesSink(draw=False)]  # its curves.npz is what `draw` needs
        return [*shown, PicturesSink(), TensorBoardSink(), ArraysSink()]

    def _experiment(self, source: str, data: OwnData | OwnFeatures) -> Experiment:
        further = plain(self.settings or {})
        if not isinstance(further, dict):
            kind = type(further).__name__
            raise ConfigError(f'settings: give a dict such as {{"optimizer.lr": 0.05}}; {kind} was given')
        for name, argument in ARGUMENTS.items():
            if name in further:
                raise ConfigError(f"settings: {name} is given by the argument {argument!r} of Classifier or fit")
        sizes = {name: further.get(name, 0) for name in ("data.num_validation", "data.num_meta")}
        override(recipe("own"), {"method.name": self.method, **sizes})  # what is wrong with these is told here
        validation = sizes["data.num_validation"]
        meta = sizes["data.num_meta"] if "data.num_meta" in further else self._num_meta(data, validation)
        left = len(data.train_labels) - (meta + validation if data.clean_labels is None else 0)
        fewer = further.get("data.num_train")
        left = min(left, fewer) if isinstance(fewer, int) and fewer > 0 else left
        values = {
            "data.source": source,
            "data.num_meta": meta,
            "data.num_validation": validation,
            "model.name": self.model or ("mlp" if isinstance(data, OwnFeatures) else "small"),
            "method.name": self.method,
            "epochs": self.epochs,
            # At least ten steps an epoch: in 40 of one step each, small tables learned little.
            "batch_size": min(left, max(10, min(100, left // 10))) if self.batch_size is None else self.batch_size,
            "seed": self.seed,
        }
        experiment = override(recipe("own"), plain(values))
        chosen = further.get("optimizer.name")
        return override(override(experiment, _optimizer(experiment, data, chosen)), further)

    def _num_meta(self, data: OwnData | OwnFeatures, validation: int) -> int:
        """As many clean samples as there are of each class alike; a part of the training samples without any."""
        if not METHODS[self.method].needs_meta:
            return 0
        num_classes = len(self.classes_)
        labels = data.train_labels if data.clean_labels is None else data.clean_labels
        fewest = int(np.bincount(labels, minlength=num_classes).min()) - -(-validation // num_classes)
        if data.clean_labels is not None:
            return max(0, min(MOST_META, num_classes * fewest))
        of_each = min(-(-FEWEST_META // num_classes), fewest // 2)
        warnings.warn(
            f"no clean samples were given: {of_each * num_classes} held out of X take their place, and are right only "
            "where y is. A few hundred checked ones (fit's `clean`) are worth the hour",
            stacklevel=4,
        )
        return of_each * num_classes

    def _look_at_samples(self, folder: Path, count: int) -> None:
        found = suspects(restored(folder, self.device))
        self.suspects_ = found.index
        self.sample_loss_ = np.full(count, np.nan, np.float32)
        self.sample_loss_[found.index] = found.loss
        self.sample_weight_: NDArray[np.float32] | None = None
        if found.weight is not None:
            self.sample_weight_ = np.full(count, np.nan, np.float32)
            self.sample_weight_[found.index] = found.weight


def _optimizer(experiment: Experiment, data: OwnData | OwnFeatures, chosen: str | None) -> dict[str, Any]:
    """What moves the network: of images the recipe's SGD, of vectors AdamW, whose rate suits any number of columns.

    SGD's 0.1 diverges on 1,600 normalised columns. Beside AdamW the look-ahead is its own step (docs/tuning.md); who
    has `chosen` SGD for vectors gets it as images have it, with the paper's look-ahead.
    """
    if isinstance(data, OwnFeatures) and chosen != "sgd":
        ahead = "method.meta.look_ahead"
        own_step = {ahead: "optimizer"} if ahead in leaves(experiment) else {}
        return {"optimizer.name": "adamw", "optimizer.schedule": "cosine", **own_step}
    return {"optimizer.milestones": milestones(experiment.epochs, 0.75, 0.9)}


ARGUMENTS = {
    "data.source": "X",
    "method.name": "method",
    "model.name": "model",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "seed": "seed",
}
"""Settings that have an argument of their own."""
