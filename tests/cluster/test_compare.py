"""What a comparison is made of, before anything runs."""

from __future__ import annotations

import pytest

from mwray.cli import main
from mwray.cluster import compare
from mwray.cluster.compare import _experiment, every_method
from mwray.config import ConfigError
from mwray.methods.registry import METHODS


def test_all_methods_are_those_that_need_nothing_beside_a_recipe():
    assert set(METHODS) - set(every_method("digits")) == {"frozen"}
    assert every_method("digits")[0] == "base"


def test_what_is_typed_is_read_as_each_methods_own_field_asks_for():
    typed = ["method.matrix=true", "epochs=2", "optimizer.milestones=[1]"]
    forward, base = (_experiment("digits", name, 1, {}, typed) for name in ("forward", "base"))
    assert forward.method.matrix == "true"
    assert (base.method.name, base.epochs, base.seed) == ("base", 2, 1)
    with pytest.raises(ConfigError, match="not of the form field=value"):
        _experiment("digits", "base", 0, {}, ["epochs"])


def test_another_optimiser_is_set_for_every_method_and_milestones_too_late_are_told(tmp_path, monkeypatch, caplog):
    seen = []
    monkeypatch.setattr(compare, "sweep", lambda jobs, **options: seen.extend(jobs) or [])
    monkeypatch.setattr(compare, "_print", lambda *arguments: None)
    typed = ["optimizer.name=adamw", "optimizer.schedule=cosine", "epochs=3"]
    compare.compare(["digits"], ["base", "glc"], 2, tmp_path, assignments=typed)
    assert {(job.experiment.optimizer.name, job.experiment.optimizer.schedule) for job in seen} == {("adamw", "cosine")}
    assert len(seen) == 4 and not caplog.records
    compare.compare(["digits"], ["base", "glc"], 2, tmp_path, assignments=["epochs=3"])
    (record,) = caplog.records  # once for all four
    assert record.getMessage().startswith("optimizer.milestones: 30 and 36 are never reached with epochs=3")


@pytest.mark.parametrize(("typed", "option"), [("method.name=base", "--methods"), ("seed=3", "--seeds")])
def test_what_the_rows_are_is_not_set_for_all_of_them(typed, option):
    with pytest.raises(ConfigError, match=f"{option} chooses it"):
        _experiment("digits", "mwnet", 0, {}, [typed])


@pytest.mark.parametrize(("typed", "given"), [([], None), (["--gpus-per-trial", "0"], 0.0)])
def test_the_gpus_of_a_training_are_chosen_as_the_error_of_a_machine_without_them_says(
    typed, given, tmp_path, monkeypatch
):
    asked = []
    monkeypatch.setattr(compare, "sweep", lambda jobs, **options: asked.append(options["gpus_per_trial"]) or [])
    monkeypatch.setattr(compare, "_print", lambda *arguments: None)
    assert main(["compare", "--methods", "base", "--seeds", "1", "--folder", str(tmp_path), *typed]) == 0
    assert asked == [given]
