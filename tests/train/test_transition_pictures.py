"""A method's estimated transition matrix is drawn beside the one that the labels show."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest

from mwray.config import override
from mwray.recipes import recipe
from mwray.reports import draw
from mwray.train.loop import train
from mwray.train.sinks import PicturesSink
from mwray.train.sinks.pictures import transitions_of
from mwray.worker import LocalWorker


def test_only_matrices_of_that_name_are_taken():
    arrays = {"method.transition_true": np.eye(2), "method.other": np.eye(2), "confusion": np.eye(2)}
    assert list(transitions_of(arrays)) == ["true"]


def test_panels_hold_the_matrices_as_they_are():
    estimated = np.array([[0.9, 0.1], [0.3, 0.7]])
    figure = draw.transitions({"estimated": estimated, "true": np.eye(2)}, ("cat", "dog"))
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in panels] == ["estimated", "true"]
    assert (panels[0].images[0].get_array() == estimated).all()
    assert {text.get_text() for text in panels[0].texts} == {"90", "10", "30", "70"}


def test_a_matrix_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\['true'\] do not fit 3 class names"):
        draw.transitions({"true": np.eye(2)}, ("a", "b", "c"))


def test_a_run_of_such_a_method_leaves_the_picture(tmp_path):
    values = {"method.name": "s-model", "epochs": 2, "optimizer.milestones": [1], "data.num_train": 200}
    train(override(recipe("digits"), values), tmp_path, worker=LocalWorker("cpu"), sinks=[PicturesSink()])
    assert matplotlib.image.imread(tmp_path / "transition.png").ndim == 3


def test_a_method_with_numbers_of_its_own_leaves_them_as_a_picture(tmp_path):
    values = {"method.name": "self-paced", "epochs": 2, "optimizer.milestones": [1], "data.num_train": 200}
    train(override(recipe("digits"), values), tmp_path, worker=LocalWorker("cpu"), sinks=[PicturesSink()])
    assert matplotlib.image.imread(tmp_path / "method.png").ndim == 3
