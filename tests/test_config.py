"""Settings are read strictly, named by one dotted name, and refused with what would do."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mwray.config import ConfigError, assign, fingerprint, leaves, names, nearest, override, parse, read, to_dict
from mwray.experiment import Experiment
from mwray.recipes import RECIPES, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name):
    experiment = recipe(name)
    assert read(Experiment, to_dict(experiment)) == experiment


def test_every_leaf_can_be_set_by_its_name():
    experiment = recipe("digits")
    assert set(leaves(experiment)) <= set(names(Experiment))
    assert override(experiment, leaves(experiment)) == experiment


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data.bias.rat": 1}, "data.bias.rat: there is no such field. Did you mean 'data.bias.rate'?"),
        ({"data.bias.rate": 1.4}, "data.bias.rate: 1.4 was given"),
        ({"method.name": "mwnt"}, "Did you mean 'mwnet'"),
        ({"method.weight_net.shape": "100-1"}, "'1-100-1'"),
        ({"epochs": "ten"}, "epochs: 'ten' was given"),
        ({"epochs": 1.5}, "epochs: 1.5 was given"),
        ({"optimizer.milestones": [30, 20]}, "milestones must rise"),
        ({"data.bias.noise": "none"}, "rate is 0.4 but noise is 'none'"),
        (
            {"method.name": "glc", "method.meta.every": 5},
            "method.meta: 'glc' has no such field; it belongs to 'mwnet'.",
        ),
        ({"method.matrix": "true"}, "method.matrix: 'mwnet' has no such field; it belongs to 'forward'."),
        ({"nothing.here": 1}, "nothing: there is no such field"),
        ({"optimizer.lr": float("nan")}, "optimizer.lr"),
    ],
)
def test_a_mistake_is_named_with_its_field(values, message):
    with pytest.raises(ConfigError, match=".") as caught:
        override(recipe("digits"), values)
    assert message in str(caught.value)


def test_all_mistakes_are_listed_at_once():
    with pytest.raises(ConfigError) as caught:
        override(recipe("digits"), {"epochs": 0, "data.bias.rate": 2.0})
    assert len(str(caught.value).splitlines()) == 2


def test_another_method_starts_from_its_own_defaults():
    experiment = override(recipe("digits"), {"method.name": "base"})
    assert to_dict(experiment)["method"] == {"name": "base"}
    back = override(experiment, {"method.name": "mwnet", "method.weight_net.lr": 0.5})
    assert back.method.weight_net.lr == 0.5
    assert back.method.weight_net.optimizer == "sgd"


def test_assignments_are_read_as_typed():
    experiment = recipe("digits")
    assert parse(experiment, "method.weight_net.shape=1-5-1") == ("method.weight_net.shape", "1-5-1")
    assert parse(experiment, "optimizer.lr = 1e-3") == ("optimizer.lr", 0.001)
    assert parse(experiment, "optimizer.milestones=[1,2]") == ("optimizer.milestones", [1, 2])
    assert parse(experiment, "data.num_train=none") == ("data.num_train", None)
    assert parse(experiment, "data.bias.noise=none") == ("data.bias.noise", "none")
    assert parse(experiment, "model.weights=none") == ("model.weights", None)
    assert parse(experiment, "data.augment=False") == ("data.augment", False)
    with pytest.raises(ConfigError, match="not of the form field=value"):
        parse(experiment, "seed")


def test_assignments_that_are_possible_only_together_are_read_together():
    typed = ["method.name=frozen", "method.shape=1-2-1", "method.parameters=[1, -1, 0, 0, 1, 1, 0]"]
    for order in (typed, typed[::-1]):
        method = assign(recipe("digits"), order).method
        assert method.shape == "1-2-1" and method.parameters == (1, -1, 0, 0, 1, 1, 0)
    assert assign(recipe("digits"), ["epochs=3", "epochs=4"]).epochs == 4
    assert assign(recipe("digits"), ["method.name=reed", "method.form=soft"]).method.form == "soft"
    for refused, message in (
        (typed[:1], "method: give either file, or"),
        (["epochs=3", "epoch=4"], "epoch: there is no"),
    ):
        with pytest.raises(ConfigError, match=message):
            assign(recipe("digits"), refused)


def test_fingerprints_tell_experiments_apart_and_are_stable():
    experiment = recipe("digits")
    assert fingerprint(experiment) == fingerprint(read(Experiment, to_dict(experiment)))
    others = {fingerprint(override(experiment, {"seed": seed})) for seed in range(20)}
    assert len(others) == 20


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(AttributeError):
        recipe("digits").epochs = 3  # type: ignore[misc]


def test_nearest_finds_a_field_by_its_last_part():
    assert nearest("shape", ["method.weight_net.shape", "seed"]) == " Did you mean 'method.weight_net.shape'?"
    assert nearest("zzzz", ["seed"]) == ""


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'cifar10-flip'"):
        recipe("cifar10-flp")


def test_settings_load_without_torch():
    """A mistake in a search space has to be told before anything heavy is loaded."""
    code = "import sys, mwray.recipes, mwray.records, mwray.space; sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
