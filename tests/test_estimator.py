"""`mwray.Classifier`: the loop behind scikit-learn's interface."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import mwray
from mwray.config import ConfigError
from mwray.data.given import GIVEN, _held, given, read
from mwray.data.own import OwnFeatures, checked
from mwray.records import Run
from mwray.train.loop import train
from mwray.worker import LocalWorker


@pytest.fixture(scope="module")
def digits():
    """Rows of pixels, 40 % of the training labels those of one of two other classes: training, clean and test ones."""
    features, labels = load_digits(return_X_y=True)
    features, test_x, labels, test_y = train_test_split(
        features, labels, test_size=500, stratify=labels, random_state=0
    )
    features, clean_x, labels, clean_y = train_test_split(
        features, labels, test_size=100, stratify=labels, random_state=0
    )
    random = np.random.default_rng(0)
    given = np.where(random.random(len(labels)) < 0.4, (labels + random.integers(1, 3, len(labels))) % 10, labels)
    return features, given, labels, (clean_x, clean_y), (test_x, test_y)


def _cut(features, labels, size):
    return train_test_split(features, labels, test_size=size, stratify=labels, random_state=0)


def quick(method="mwnet", **arguments):
    return mwray.Classifier(method, **{"verbose": False, "device": "cpu", "epochs": 2, **arguments})


def as_images(rows):
    return (rows.reshape(-1, 8, 8) * 15).astype(np.uint8)


@pytest.fixture(scope="module")
def fitted(digits):
    features, given, _, clean, test = digits
    return mwray.Classifier(verbose=False, device="cpu", epochs=30).fit(features, given, clean=clean, test=test)


def test_it_learns_from_wrong_labels_and_names_them(digits, fitted):
    features, given, right, clean, test = digits
    plain = mwray.Classifier("base", verbose=False, device="cpu", epochs=30).fit(features, given, clean=clean)
    assert fitted.score(*test) > plain.score(*test) + 0.03
    wrong = given != right
    assert wrong[fitted.suspects_[:200]].mean() > 0.95 > wrong.mean() + 0.5
    assert fitted.sample_weight_[wrong].mean() < 0.3 * fitted.sample_weight_[~wrong].mean()
    assert plain.sample_weight_ is None and wrong[plain.suspects_[:200]].mean() > 0.5
    assert fitted.summary_["test.last"] == pytest.approx(fitted.score(*test))
    assert fitted.history_[-1]["epoch"] == 30 and "test.accuracy" in fitted.history_[0]
    assert not any(name.startswith("test") for name in plain.summary_)


def test_probabilities_and_labels_go_together(digits, fitted):
    test = digits[4][0]
    chances = fitted.predict_proba(test)
    assert chances.shape == (500, 10) and np.allclose(chances.sum(1), 1)
    assert (fitted.classes_[chances.argmax(1)] == fitted.predict(test)).all()
    assert fitted.predict(test[:0]).shape == (0,)
    with pytest.raises(ValueError, match="expecting 64"):
        fitted.predict(test[:, :5])


def test_it_draws_weights_or_else_curves(fitted, digits):
    axes = fitted.draw().axes
    assert len(axes) >= 2 and "weight" in axes[0].get_ylabel().lower()
    assert pickle.loads(pickle.dumps(fitted)).draw().axes
    plain = quick(method="base").fit(digits[0], digits[1])
    assert plain.draw().axes
    with pytest.raises(NotFittedError):
        quick().draw()


def test_what_it_trains_is_what_the_loop_trains(digits, tmp_path):
    features, labels, _, clean, _ = digits
    estimator = quick().fit(features, labels, clean=clean)
    data = OwnFeatures(
        train_features=features,
        train_labels=labels,
        test_features=None,
        test_labels=None,
        clean_features=clean[0],
        clean_labels=clean[1],
    )
    with given(checked(data, "mine")) as name:
        assert name == estimator.experiment_.data.source
        train(estimator.experiment_, tmp_path, worker=LocalWorker("cpu"))
    network = mwray.load(tmp_path, "cpu").state_dict()
    assert all(torch.equal(network[k], v) for k, v in estimator.classifier_.state_dict().items())
    assert not _held


def test_labels_may_be_texts_and_samples_images(digits):
    features, labels, _, (clean_x, clean_y), _ = digits
    names = np.array([f"digit {k}" for k in range(10)])
    estimator = quick(batch_size=50).fit(as_images(features), names[labels], clean=(as_images(clean_x), names[clean_y]))
    assert set(estimator.predict(as_images(clean_x))) <= set(names)
    assert estimator.classifier_.classes == tuple(names) and estimator.experiment_.model.name == "small"
    assert (estimator.experiment_.batch_size, estimator.experiment_.data.num_meta) == (50, 100)


def test_a_kept_run_goes_on_and_is_not_trained_again(digits, tmp_path):
    features, labels, _, clean, _ = digits
    first = quick(folder=tmp_path).fit(features, labels, clean=clean)
    assert {"weights.png", "done", "records.jsonl"} <= {path.name for path in first.run_.iterdir()}
    before = (first.run_ / "records.jsonl").stat().st_mtime_ns
    again = quick(folder=tmp_path).fit(features, labels, clean=clean)
    assert again.run_ == first.run_ and (again.run_ / "records.jsonl").stat().st_mtime_ns == before
    other = quick(folder=tmp_path).fit(features, np.roll(labels, 1), clean=clean)
    assert other.run_ != first.run_ and len(Run(other.run_).records()) == 2


def test_without_clean_samples_some_are_held_out_and_it_says_so(digits):
    features, labels = digits[:2]
    with pytest.warns(UserWarning, match="100 held out of X") as seen:
        estimator = quick().fit(features, labels)
    assert seen[0].filename == __file__
    assert np.isnan(estimator.sample_loss_).sum() == 100 and len(estimator.suspects_) == len(features) - 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = quick(method="base").fit(features, labels)
    assert not np.isnan(plain.sample_loss_).any()


def test_scikit_learns_tools_take_it(digits):
    features, _, right, _, _ = digits
    features, right = features[:300], right[:300]
    estimator = quick(method="base", settings={"optimizer.lr": 0.05})
    assert clone(estimator).get_params() == estimator.get_params()
    assert cross_val_score(estimator, features, right, cv=3, n_jobs=1).shape == (3,)
    search = GridSearchCV(estimator, {"settings": [{"optimizer.lr": 0.0001}, {"optimizer.lr": 0.1}]}, cv=2)
    assert search.fit(features, right).best_params_["settings"] == {"optimizer.lr": 0.1}
    pipe = make_pipeline(StandardScaler(), estimator).fit(features, right)
    same = pickle.loads(pickle.dumps(pipe))
    assert (same.predict_proba(features) == pipe.predict_proba(features)).all()
    with pytest.raises(NotFittedError):
        clone(estimator).predict(features)


@pytest.mark.slow
def test_scikit_learns_own_checks_pass():
    estimator = mwray.Classifier("base", epochs=30, settings={"optimizer.lr": 0.01}, device="cpu", verbose=False)
    rounding = {"check_methods_subset_invariance": "asks for 1e-7, and float32 rounds by the size of the batch"}
    found = check_estimator(estimator, on_skip=None, expected_failed_checks=rounding)
    assert sum(check["status"] == "passed" for check in found) > 50
    tables = [check["check_name"] for check in found if check["status"] == "skipped"]
    assert set(tables) <= {"check_array_api_input", "check_dataframe_column_names_consistency"}  # need other packages


def test_two_classes_have_one_decision(digits):
    features, _, right, _, _ = digits
    few = right < 2
    estimator = quick(method="base").fit(features[few], right[few] == 1)
    decision = estimator.decision_function(features[few])
    assert decision.shape == (few.sum(),) and estimator.classes_.tolist() == [False, True]
    assert ((decision > 0) == estimator.predict(features[few])).all()
    np.testing.assert_allclose(1 / (1 + np.exp(-decision)), estimator.predict_proba(features[few])[:, 1])


def test_whole_numbers_are_columns_too(digits):
    features, labels, _, (clean_x, clean_y), _ = digits
    whole = quick().fit(features.astype(np.uint8), labels, clean=(clean_x.astype(np.int64), clean_y))
    real = quick().fit(features, labels, clean=(clean_x, clean_y))
    assert (whole.predict_proba(features.astype(int)) == real.predict_proba(features)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "mwnte"}, "mwnet"),
        ({"settings": {"optimizer.lrr": 1}}, r"optimizer\.lr"),
        ({"settings": ["optimizer.lr=1"]}, "settings: give a dict"),
        ({"settings": {"epochs": 3}}, "'epochs' of Classifier"),
        ({"settings": {"data.num_meta": "many"}}, r"data\.num_meta"),
        ({"settings": {"data.num_meta": 200}}, "at most"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 10_000}, "batch_size"),
        ({"model": "resnet32"}, r"model\.name"),
    ],
)
def test_an_argument_that_cannot_be_is_named(digits, arguments, message, tmp_path):
    features, labels, _, clean, _ = digits
    with pytest.raises(ConfigError, match=message):
        quick(folder=tmp_path, **arguments).fit(features, labels, clean=clean)
    assert not list(tmp_path.iterdir()) and not _held


def test_arrays_that_cannot_be_used_are_named(digits):
    features, labels, _, (clean_x, clean_y), _ = digits
    broken = features.copy()
    broken[3, 4] = np.nan
    cases = [
        ((broken, labels), {}, "^X holds nan in row 3, column 4"),
        ((features, labels[:-1]), {}, "inconsistent numbers"),
        ((features[..., None, None], labels), {}, "uint8"),
        ((features, np.zeros_like(labels)), {}, "y: holds one class only, 0"),
        ((features, labels), {"clean": (clean_x, clean_y + 1)}, "clean: the label 10 is none"),
        ((features, labels), {"clean": (clean_x, None)}, "clean: "),
        ((features, labels), {"clean": clean_x}, r"clean: give \(samples, labels\)"),
        (
            (features, labels),
            {"clean": (clean_x, clean_y.astype(str))},
            "clean: the label '.' is none of y's: 0, 1",
        ),
        ((features, labels), {"clean": (clean_x, [None] * 100)}, "clean: the label None is none"),
        ((features, labels), {"clean": (clean_x[1:], clean_y)}, "clean: its labels is int64 .100. for 99 vectors"),
        ((features, labels), {"clean": (csr_matrix(clean_x), clean_y)}, "clean: Sparse data"),
        ((features, labels), {"clean": (clean_x[:, 1:], clean_y)}, "clean: X has 63 features"),
        ((features, labels), {"test": (clean_x[:, 1:], clean_y)}, "test: X has 63 features"),
        ((features, labels), {"clean": (clean_x[clean_y > 0], clean_y[clean_y > 0])}, "clean: its labels .* '0'"),
    ]
    for arrays, further, message in cases:
        with pytest.raises(ValueError, match=message):  # scikit-learn's, or a ConfigError
            quick().fit(*arrays, **further)


def test_columns_of_the_clean_samples_in_another_order_are_refused():
    pandas = pytest.importorskip("pandas")
    labels = np.arange(60) % 2
    table = pandas.DataFrame(np.random.default_rng(0).random((60, 3)), columns=["a", "b", "c"]).assign(d=True, e=1)
    turned = table[table.columns[::-1]]
    quick().fit(table, labels, clean=(table, labels[:, None]))
    for name in ("clean", "test"):
        with pytest.raises(ConfigError, match=f"{name}: The feature names should match"):
            quick().fit(table, labels, **{"clean": (table, labels), name: (turned, labels)})


@pytest.mark.parametrize(("count", "size"), [(8, 8), (20, 10), (250, 25), (1000, 100), (1097, 100)])
def test_small_tables_have_small_batches(digits, count, size):
    features, given = digits[0][:count], np.arange(count) % 2
    assert quick("base", epochs=1).fit(features, given).experiment_.batch_size == size


def test_settings_may_be_numpys_numbers_and_paths(digits, tmp_path):
    features, labels, _, clean, _ = digits
    first = quick(folder=tmp_path).fit(features, labels, clean=clean)
    settings = {"optimizer.lr": np.float32(0.25), "optimizer.betas": np.array([0.5, 0.75]), "model.weights": first.run_}
    estimator = quick(epochs=np.int64(1), seed=np.int32(3), batch_size=np.int64(50), settings=settings)
    experiment = estimator.fit(features, labels, clean=clean).experiment_
    assert (experiment.epochs, experiment.seed, experiment.batch_size) == (1, 3, 50)
    assert (experiment.optimizer.lr, experiment.optimizer.betas) == (0.25, (0.5, 0.75))
    assert experiment.model.weights == str(first.run_)


def test_a_limited_training_set_makes_the_batch_as_small(digits):
    features, labels, _, clean, _ = digits
    assert quick(settings={"data.num_train": 60}).fit(features, labels, clean=clean).experiment_.batch_size == 10


def test_sgd_for_vectors_is_that_of_images(digits):
    features, labels, _, clean, _ = digits
    chosen = quick(epochs=4, settings={"optimizer.name": "sgd", "optimizer.lr": 0.01}).fit(
        features, labels, clean=clean
    )
    assert chosen.experiment_.method.meta.look_ahead == "sgd"
    assert chosen.experiment_.optimizer.milestones == (3,)


def test_numbers_beyond_float32_are_refused(digits, fitted):
    rows = digits[0][:3].copy()
    rows[1, 2] = 1e300
    with pytest.raises(ValueError, match="float32"):
        fitted.predict(rows)


def test_a_file_is_no_folder_for_runs(digits, tmp_path):
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(ConfigError, match="folder: .*runs is a file"):
        quick(method="base", folder=tmp_path / "runs").fit(*digits[:2])
    assert (tmp_path / "runs").read_text() == "mine"


def test_arrays_of_another_process_are_not_there():
    with pytest.raises(ConfigError, match="same arrays"):
        read(GIVEN + "0123456789abcdef")


def test_the_documents_example_runs(capsys):
    text = (Path(__file__).parent.parent / "docs" / "python.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    exec(code.replace("Classifier()", "Classifier(epochs=20, device='cpu', verbose=False)"), {})
    score, suspects = capsys.readouterr().out.split("\n", 1)
    assert float(score) > 0.85 and len(suspects.split()) >= 50
