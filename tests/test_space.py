"""Search spaces: the shipped ones fit the recipes, and whatever cannot work is refused, by name, at once."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from mwray.config import ConfigError, leaves, to_dict
from mwray.recipes import recipe
from mwray.space import build, load

ROOT = Path(__file__).parent.parent
SPACES = sorted((ROOT / "search_spaces").glob("*.yaml"))

GOOD = {
    "recipe": "digits",
    "search": {
        "method.weight_net.shape": {"choice": ["1-50-1", "1-100-1"]},
        "optimizer.lr": {"float": [0.01, 0.2], "log": True},
        "data.num_meta": {"int": [20, 200], "step": 20},
    },
    "trials": 4,
}


def changed(**changes):
    """GOOD with top-level keys replaced; None removes one."""
    return {key: value for key, value in {**GOOD, **changes}.items() if value is not None}


def searching(name, given, **changes):
    """GOOD with one more searched field."""
    return changed(search={**GOOD["search"], name: given}, **changes)


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_shipped_space_resolves_against_its_recipe(path):
    space = load(path)
    assert space.trials >= 2
    first = space.first()[0]
    known = leaves(space.experiment(first))
    assert set(first) <= set(known)
    assert {name: known[name] for name in first} == first


def test_the_five_spaces_are_shipped():
    assert {path.stem for path in SPACES} >= {"digits", "weight_net", "meta_size", "learning_rates", "joint"}


def test_the_default_space_starts_at_the_papers_setting():
    first = load(next(path for path in SPACES if path.stem == "digits")).first()[0]
    assert first["method.weight_net.shape"] == "1-100-1"
    assert first["optimizer.lr"] == 0.1
    assert first["method.weight_net.lr"] == 1e-3


def test_optimisers_and_schedules_are_searched_with_what_belongs_to_each():
    space = build(
        {
            "recipe": "digits",
            "search": {
                "optimizer.name": {"choice": ["sgd", "adamw"]},
                "optimizer.schedule": {"choice": ["steps", "cosine"]},
                "optimizer.momentum": {"float": [0.5, 0.9], "when": {"optimizer.name": ["sgd"]}},
                "optimizer.milestones": {"choice": [[30], [20, 30]], "when": {"optimizer.schedule": ["steps"]}},
                "optimizer.final": {"float": [0.0, 0.1], "when": {"optimizer.schedule": ["cosine"]}},
            },
            "trials": 4,
        },
        "space.yaml",
    )
    assert space.description()["base"]["optimizer"] == to_dict(space.base)["optimizer"]  # a stored search goes on
    cosine = space.experiment({"optimizer.name": "sgd", "optimizer.schedule": "cosine", "optimizer.final": 0.1})
    assert (cosine.optimizer.milestones, cosine.optimizer.final) == ((), 0.1)
    adamw = {"optimizer.name": "adamw", "optimizer.schedule": "steps", "optimizer.milestones": [20, 30]}
    assert space.experiment(adamw).optimizer.milestones == (20, 30)
    assert space.complete({}) == {"optimizer.name": "sgd", "optimizer.schedule": "steps", "optimizer.momentum": 0.9}


REFUSED = {
    "a field of another optimiser": (
        searching("optimizer.betas", {"choice": [[0.9, 0.99], [0.9, 0.999]]}),
        ["search.optimizer.betas", "optimizer 'sgd' has no such field", "set optimizer.name"],
    ),
    "a field of some of the optimisers": (
        changed(search={"optimizer.name": {"choice": ["sgd", "adam"]}, "optimizer.momentum": {"float": [0.1, 0.9]}}),
        ["search.optimizer.momentum", "optimizer 'adam' has no such field", "when: {optimizer.name:"],
    ),
    "a field of another schedule": (
        searching("optimizer.final", {"float": [0.0, 0.1]}),
        ["search.optimizer.final", "says nothing with schedule=steps"],
    ),
    "misspelt field": (
        searching("optimizer.lrr", {"float": [0.1, 0.2]}),
        ["search.optimizer.lrr", "no such field", "'optimizer.lr'"],
    ),
    "misspelt section": (searching("data.num_mta", {"choice": [1, 2]}), ["'data.num_meta'"]),
    "unknown recipe": (changed(recipe="digist"), ["recipe 'digist'", "Did you mean 'digits'"]),
    "unknown key": (changed(trails=3, trials=None), ["trails", "'trials'"]),
    "no search": (changed(search={}), ["search"]),
    "no recipe": (changed(recipe=None), ["recipe", "needed"]),
    "misspelt kind": (searching("seed", {"chioce": [1, 2]}), ["search.seed", "chioce", "'choice'"]),
    "two kinds": (searching("seed", {"choice": [1], "int": [1, 2]}), ["search.seed", "exactly one of"]),
    "no choice": (searching("seed", {"choice": []}), ["search.seed", "choice"]),
    "twice the same choice": (searching("seed", {"choice": [1, 2, 1]}), ["search.seed", "more than once"]),
    "empty interval": (searching("optimizer.momentum", {"float": [0.9, 0.9]}), ["optimizer.momentum", "empty"]),
    "downwards": (searching("optimizer.momentum", {"float": [0.9, 0.1]}), ["runs downwards", "[0.1, 0.9]"]),
    "log at zero": (searching("optimizer.weight_decay", {"float": [0, 0.1], "log": True}), ["log", "above 0"]),
    "log and step": (searching("seed", {"int": [1, 9], "log": True, "step": 2}), ["exclude each other"]),
    "uneven step": (searching("seed", {"int": [1, 10], "step": 2}), ["steps of 2 from 1 do not meet 10"]),
    "three ends": (searching("seed", {"int": [1, 2, 3]}), ["search.seed"]),
    "unknown option": (searching("seed", {"int": [1, 2], "lgo": True}), ["search.seed", "lgo", "'log'"]),
    "text for a number": (searching("epochs", {"choice": [10, "many"]}), ["search.epochs", "'many'"]),
    "fractions of an integer": (searching("epochs", {"float": [1.5, 9.5]}), ["search.epochs", "1.5"]),
    "a value that the tree refuses": (searching("optimizer.momentum", {"float": [0.1, 1.5]}), ["momentum", "1.5"]),
    "a shape that is no weight net": (
        changed(search={"method.weight_net.shape": {"choice": ["1-50-1", "50"]}}),
        ["search.method.weight_net", "'50'"],
    ),
    "also fixed": (changed(set={"optimizer.lr": 0.1}), ["search.optimizer.lr", "`set`", "0.1"]),
    "misspelt fixed field": (changed(set={"optimizer.momentun": 0.1}), ["set: ", "'optimizer.momentum'"]),
    "fixed to nonsense": (changed(set={"data.bias.rate": 2}), ["set: data.bias.rate", "2"]),
    "field of another method": (
        changed(set={"method.name": "base"}),
        ["search.method.weight_net.shape", "'base' has no such field", "set method.name"],
    ),
    "field of one of the methods": (
        searching("method.name", {"choice": ["base", "mwnet"]}),
        ["search.method.weight_net.shape", "'base' has no such field", "when"],
    ),
    "no validation images": (changed(set={"data.num_validation": 0}), ["metric", "data.num_validation", "is 0"]),
    "perhaps none": (searching("data.num_validation", {"choice": [0, 100]}), ["data.num_validation", "is 0"]),
    "choosing on the test set": (changed(metric="test.accuracy"), ["metric", "'test.accuracy'", "never used"]),
    "misspelt metric": (changed(metric="validation.acuracy"), ["'validation.accuracy'"]),
    "the worst": (changed(mode="min"), ["mode", "'min'", "worst"]),
    "mode of neither kind": (changed(mode="best"), ["mode", "'best'"]),
    "endless grid": (changed(sampler="grid"), ["search.optimizer.lr", "grid", "step"]),
    "seed twice": (searching("seed", {"choice": [0, 1]}, seeds=2), ["seeds: 2", "`seed` is searched as well"]),
    "no seed": (changed(seeds=0), ["seeds", "0"]),
    "huge grid": (changed(search={"seed": {"int": [0, 10**9]}}, sampler="grid"), ["grid", "1000000001", "100000"]),
    "no number of trials": (changed(trials=None), ["trials", "number is needed"]),
    "no trials": (changed(trials=0), ["trials", "0"]),
    "unknown sampler": (changed(sampler="tpa"), ["sampler", "'tpa'"]),
    "misspelt pruner": (changed(pruner="asah"), ["pruner", "'asah'", "'asha'"]),
    "two pruners": (changed(pruner={"asha": {}, "median": {}}), ["pruner", "choose one"]),
    "misspelt option of a pruner": (changed(pruner={"asha": {"grace": 3}}), ["pruner.asha.grace", "grace_period"]),
    "too long a grace": (changed(pruner={"asha": {"grace_period": 40}}), ["grace_period", "40"]),
    "start elsewhere": (
        changed(start=[{"optimizer.lr": 0.5}]),
        ["start, point 1", "optimizer.lr is 0.5", "0.01 to 0.2"],
    ),
    "start between steps": (changed(start=[{}, {"data.num_meta": 30}]), ["start, point 2", "data.num_meta is 30"]),
    "start with a misspelt field": (changed(start=[{"optimizer.l": 0.1}]), ["start, point 1", "'optimizer.lr'"]),
    "condition on nothing": (
        searching("seed", {"int": [1, 9], "when": {"data.nummeta": [20]}}),
        ["search.seed.when", "not searched", "'data.num_meta'"],
    ),
    "condition never met": (
        searching("seed", {"int": [1, 9], "when": {"data.num_meta": [30]}}),
        ["search.seed.when", "never 30"],
    ),
    "condition on a real number": (
        searching("seed", {"int": [1, 9], "when": {"optimizer.lr": [0.1]}}),
        ["search.seed.when", "real number"],
    ),
    "conditions in a circle": (
        changed(
            search={
                "seed": {"choice": [0, 1], "when": {"epochs": [5]}},
                "epochs": {"choice": [5, 6], "when": {"seed": [0]}},
            }
        ),
        ["seed", "epochs", "wait for one another"],
    ),
    "start where the condition fails": (
        searching(
            "optimizer.momentum",
            {"float": [0.1, 0.9], "when": {"method.weight_net.shape": ["1-50-1"]}},
            start=[{"optimizer.momentum": 0.5}],
        ),
        ["start, point 1", "optimizer.momentum", "does not hold"],
    ),
}


@pytest.mark.parametrize(("data", "fragments"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_by_name(data, fragments):
    with pytest.raises(ConfigError) as refusal:
        build(data, "my.yaml")
    message = str(refusal.value)
    assert message.startswith("my.yaml: ")
    assert len(message) < 500
    for fragment in fragments:
        assert fragment in message


def test_numbers_with_an_exponent_are_numbers_and_not_text(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("recipe: digits\ntrials: 2\nsearch:\n  method.weight_net.lr: {float: [1e-4, 1E-2], log: true}\n")
    assert load(path).ranges["method.weight_net.lr"].float == (1e-4, 1e-2)


def test_errors_of_the_file_name_the_file_and_the_line(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("recipe: digits\ntrials: 2\ntrials: 3\n")
    with pytest.raises(ConfigError, match=r"s\.yaml, line 3: 'trials' is given twice"):
        load(path)
    path.write_text("recipe: [digits\n")
    with pytest.raises(ConfigError, match=r"s\.yaml, line 2"):
        load(path)
    for content in (b"\x89PNG\xff", b"recipe: \x00\n", b"? [a, b]\n: 1\n"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"s\.yaml: is not"):
            load(path)
    path.write_text("- digits\n")
    with pytest.raises(ConfigError, match="a mapping"):
        load(path)
    with pytest.raises(ConfigError, match=r"Did you mean '.*s\.yaml'"):
        load(tmp_path / "t.yaml")
    path.write_text("")
    with pytest.raises(ConfigError, match="is empty, and a mapping with `recipe` and `search` is needed"):
        load(path)


def test_the_command_line_wins_over_the_file_and_is_checked_alike(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(changed(set={"data.bias.rate": 0.5, "epochs": 3})))
    space = load(path, ["data.bias.rate=0.6"])
    assert (space.base.data.bias.rate, space.base.epochs) == (0.6, 3)
    with pytest.raises(ConfigError, match="optimizer.lr: is fixed to 0.2"):
        load(path, ["optimizer.lr=0.2"])


def test_a_starting_point_is_completed_from_the_recipe_where_its_value_is_in_range():
    space = build(changed(start=[{"method.weight_net.shape": "1-50-1"}]), "s.yaml")
    own = leaves(space.base)
    assert space.first() == [
        {"method.weight_net.shape": "1-50-1", "optimizer.lr": own["optimizer.lr"], "data.num_meta": 100}
    ]
    narrow = build(changed(search={"optimizer.lr": {"float": [0.5, 0.6]}}, start=[{}]), "s.yaml")
    assert narrow.first() == [{}]  # the recipe's 0.1 is outside: left to the sampler


def test_a_grid_holds_every_point_once_and_no_field_whose_condition_fails():
    search = {
        "optimizer.nesterov": {"choice": [False, True], "when": {"optimizer.momentum": [0.5, 0.9]}},
        "optimizer.momentum": {"choice": [0.0, 0.5, 0.9]},
        "seed": {"int": [0, 2], "step": 2},
    }
    data = changed(search=search, sampler="grid", trials=None, start=[{"optimizer.momentum": 0.5, "seed": 2}])
    space = build(data, "s.yaml")
    points = space.first()
    assert points[0] == {"optimizer.momentum": 0.5, "optimizer.nesterov": False, "seed": 2}
    assert len(points) == 2 * (1 + 2 * 2)
    assert {"optimizer.momentum": 0.0, "seed": 0} in points
    assert len({str(sorted(point.items())) for point in points}) == len(points)
    assert list(space.ranges)[0] == "optimizer.momentum"  # before what depends on it, whatever the file's order


def test_a_method_is_searched_together_with_its_own_fields():
    search = {
        "method.weight_net.lr": {"float": [1e-4, 1e-2], "log": True, "when": {"method.name": ["mwnet"]}},
        "method.name": {"choice": ["base", "mwnet"]},
    }
    space = build(changed(search=search), "s.yaml")
    assert space.experiment({"method.name": "base"}).method.name == "base"
    assert space.experiment({"method.name": "mwnet", "method.weight_net.lr": 0.01}).method.weight_net.lr == 0.01


def test_without_validation_images_the_meta_loss_may_be_searched_on():
    space = build(changed(metric="train.meta_loss", set={"data.num_validation": 0}), "s.yaml")
    assert space.mode == "min"


def test_the_description_tells_searches_apart_but_for_their_length():
    one, longer = build(GOOD, "a.yaml"), build(changed(trials=40), "b.yaml")
    other = build(changed(set={"epochs": 3}), "a.yaml")
    assert one.description() == longer.description()
    assert one.description() != other.description()


def test_a_bad_space_is_refused_by_the_command_in_two_seconds_and_before_ray(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("recipe: digits\ntrials: 2\nsearch:\n  optimizer.lrr: {float: [0.1, 0.2]}\n")
    code = (
        "import sys; from mwray.cli import main; code = main(['tune', '--space', sys.argv[1]])\n"
        "print(code, [name for name in ('ray', 'optuna', 'torch') if name in sys.modules])"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.strip() == "2 []"
    assert "Did you mean 'optimizer.lr'" in done.stderr
    # Processor time: the wall clock of a busy machine says nothing about this program.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_seeds_repeat_every_start_and_every_point_of_a_grid():
    search = {"data.num_meta": {"choice": [20, 50]}}
    data = changed(search=search, seeds=3, sampler="grid", trials=None, start=[{"data.num_meta": 50}], set={"seed": 7})
    space = build(data, "x.yaml")
    assert space.trials == 2  # points
    assert [(p["data.num_meta"], p["seed"]) for p in space.first()] == [(m, s) for m in (50, 20) for s in (7, 8, 9)]
    assert space.description()["seeds"] == 3
    assert load(next(path for path in SPACES if path.stem == "weight_net"), (), seeds=2).seeds == 2
    assert "seeds" not in build(changed(), "x.yaml").description()  # or searches of before could not go on


@pytest.mark.parametrize("name", ["own", "own.yaml", "search_spaces/own.yaml", "search_spaces/own"])
def test_a_space_that_comes_with_the_package_is_found_from_everywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(name).base.data.source == recipe("own").data.source
    own = tmp_path / name
    own.parent.mkdir(exist_ok=True)
    own.write_text("recipe: digits\ntrials: 2\nsearch: {seed: {choice: [0, 1]}}\n")
    assert load(name).base.data.source == "digits"  # the user's own comes first


def test_a_name_that_no_space_has_is_answered_with_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cluster.yaml").touch()  # is none
    with pytest.raises(ConfigError, match=r"owm: No such file.* Did you mean 'own'\?$"):
        load("owm")


@pytest.mark.slow
def test_an_installed_package_has_the_spaces(tmp_path):
    pytest.importorskip("setuptools", reason="needs setuptools, which builds the package")
    for part in ("mwray", "search_spaces"):
        shutil.copytree(ROOT / part, tmp_path / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / part, tmp_path / part)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {path.name for path in SPACES} == {Path(n).name for n in names if n.startswith("mwray/space/shipped/")}
    assert "mwray/py.typed" in names and not [n for n in names if n.startswith("tests/")]
