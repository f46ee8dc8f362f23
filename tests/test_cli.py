"""What a user may mistype: one line that names it, an exit code, and nothing left behind."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from mwray.cli import main
from mwray.cli_arguments import gpus, gpus_or_auto, positive, seeds
from mwray.cli_train import describe
from mwray.config import override, to_dict
from mwray.recipes import recipe
from mwray.records import Run


def refused(capsys, *arguments: str, code: int = 2) -> str:
    """The one line that `arguments` are refused with."""
    assert main(arguments) == code
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == 1 and not said.out, said
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "tpu"], "--device tpu: cannot be used"),
        (["--set", "batch_size=5000"], "batch_size: a batch of 5000 samples cannot be drawn from 1007"),
        (["--set", "data.num_meta=5000"], "data.num_meta: 5000"),
        (["--set", "method.name=frozen", "--set", "method.file=none.json"], "method.file: none.json cannot be used"),
        (["--gpus", "1"], "--gpus: a training in this process does not look at it; give --workers 2 or more"),
        (["--address", "auto"], "--address: a training in this process"),
        (["--workers", "2", "--device", "cpu"], "--device: a training over several workers does not look at it"),
        (["--set", "method.name=frozen"], "method: give either file, or shape and parameters"),
    ],
)
def test_a_training_that_cannot_be_leaves_no_folder(arguments, message, tmp_path, capsys):
    assert message in refused(capsys, "train", "digits", "--folder", str(tmp_path / "run"), *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_of_another_experiment_is_not_passed_off_as_this_one(tmp_path, capsys):
    run = Run(tmp_path / "run")
    run.start(to_dict(override(recipe("digits"), {"seed": 7})), {}, 0)
    run.finish({"epochs": 1, "test.last": 0.5})
    assert main(["train", "digits", "--folder", str(tmp_path / "run")]) == 2
    assert "holds another experiment" in capsys.readouterr().err
    assert main(["train", "digits", "--set", "seed=7", "--folder", str(tmp_path / "run")]) == 0
    assert "Finished already" in capsys.readouterr().out


def test_a_short_run_has_no_mean_of_the_last_five_epochs():
    summary = {"test.last": 0.5, "test.last5": 0.4}
    assert describe({**summary, "epochs": 4}) == "  50.00 %  test accuracy, last epoch"
    assert "40.00 %  test accuracy, mean of the last five epochs" in describe({**summary, "epochs": 5})


def test_milestones_that_are_never_reached_are_told(tmp_path, capsys, caplog):
    def told(*arguments: str) -> list[str]:
        caplog.clear()
        folder = str(tmp_path / str(len(list(tmp_path.iterdir()))))
        assert main(["train", "digits", "--set", "model.name=mlp", "--folder", folder, *arguments]) == 0
        return [record.getMessage() for record in caplog.records]

    (line,) = told("--set", "epochs=1")
    assert line.startswith("optimizer.milestones: 30 and 36 are never reached with epochs=1, and")
    assert told("--set", "epochs=1", "--set", "optimizer.milestones=[]") == []
    (line,) = told("--set", "epochs=2", "--set", "optimizer.milestones=[1,2]")
    assert line.startswith("optimizer.milestones: 2 is never reached with epochs=2, and")
    capsys.readouterr()


def test_a_search_tells_of_milestones_that_some_of_its_trials_never_reach(tmp_path, monkeypatch, caplog):
    def told(search, **fixed) -> list[str]:
        caplog.clear()
        space = {"recipe": "digits", "set": {"data.num_validation": 50, **fixed}, "search": search, "trials": 2}
        (tmp_path / "space.yaml").write_text(json.dumps(space))
        monkeypatch.setattr("mwray.cluster.search.search", lambda *a, **k: SimpleNamespace(interrupted=0, finished=1))
        assert main(["tune", "--space", str(tmp_path / "space.yaml"), "--folder", str(tmp_path / "search")]) == 0
        return [record.getMessage() for record in caplog.records]

    rate = {"optimizer.lr": {"float": [0.01, 0.1]}}
    assert told(rate) == []
    assert told(rate, epochs=4)[0].startswith("optimizer.milestones: 30 and 36 are never reached with epochs=4")
    assert told({"epochs": {"int": [33, 60]}})[0].startswith("optimizer.milestones: 36 is never reached with epochs=33")
    (line,) = told({"optimizer.milestones": {"choice": [[3], [3, 7]]}}, epochs=5)
    assert line.startswith("optimizer.milestones: 7 is never reached")
    assert told({"optimizer.name": {"choice": ["adam", "adamw"]}}, epochs=4) == []
    both = {"optimizer.schedule": {"choice": ["steps", "cosine"]}}
    assert len(told(both, epochs=4)) == 1 and told(both) == []


def test_a_table_tells_of_milestones_too_late_and_stretches_its_own(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("mwray.cluster.sweep.sweep", lambda jobs, **options: [])
    arguments = ["tables", "--table", "3", "--rows", "BaseModel", "--columns", "flip 40", "--seeds", "2"]
    arguments += ["--folder", str(tmp_path), "--set", "epochs=6"]
    main(arguments)
    assert not caplog.records
    main([*arguments, "--set", "optimizer.milestones=[4,8]"])
    assert [r.getMessage()[:52] for r in caplog.records] == ["optimizer.milestones: 8 is never reached with epochs"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["batch_size=25"], "batch_size: 25 samples cannot be shared equally by 2 workers; 24 would do"),
        (["meta_batch_size=25"], "meta_batch_size: 25 samples cannot be shared equally by 2 workers; 24 would do"),
        (["data.num_meta=21"], "data.num_meta: 21 samples cannot be shared equally by 2 workers; 20 would do"),
    ],
)
def test_batches_that_workers_cannot_share_are_refused_before_ray_starts(
    settings, message, tmp_path, capsys, monkeypatch
):
    from mwray.cluster import trainer

    monkeypatch.setattr(trainer, "connected", lambda address: pytest.fail("Ray was started"))
    fields = [part for setting in settings for part in ("--set", setting)]
    assert message in refused(capsys, "train", "digits", "--workers", "2", "--folder", str(tmp_path / "run"), *fields)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "verb", "message"),
    [
        (["train", "digits", "--foldr", "x"], "train", "unrecognized arguments: --foldr x. Did you mean '--folder'?"),
        (["tune", "--zzz"], "tune", "unrecognized arguments: --zzz"),
        (["report", "a", "b"], "report", "unrecognized arguments: b"),
    ],
)
def test_an_option_that_a_verb_does_not_know_is_told_with_the_verbs_own_usage(arguments, verb, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"usage: mwray {verb} [-h]") and said.endswith(f"mwray {verb}: error: {message}\n")


def test_the_shape_of_a_weight_net_is_named_by_its_field(capsys):
    line = refused(capsys, "train", "digits", "--set", "method.weight_net.shape=1-x")
    assert line.startswith("mwray: method.weight_net.shape: '1-x' is not the shape of a weight net")


def test_a_figure_that_is_none_is_told_before_runs_that_are_none(tmp_path, capsys):
    line = refused(capsys, "report", "--figure", "99", "--runs", str(tmp_path))
    assert line.startswith("mwray: --figure 99: figures are 1, 3")


def test_a_file_where_a_folder_should_be(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    for arguments in (["train", "digits", "--folder"], ["report", "--suspects"]):
        assert str(file) in refused(capsys, *arguments, str(file))
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--workers", "x"], "argument --workers: 'x' is not a whole number above 0"),
        (["train", "--gpus", "-1"], "argument --gpus: '-1' is not a number of GPUs"),
        (["tune", "--gpus-per-trial", "half"], "argument --gpus-per-trial: 'half' is not a number of GPUs"),
        (["compare", "--seeds", "0"], "argument --seeds: '0' is not a whole number above 0"),
        (["compare", "--methods", " ,"], "argument --methods: ' ,' names nothing"),
        (["tables", "--seeds", "a"], "argument --seeds: 'a' names no seed: write 5 (0 to 4), 3-4, or 0,2"),
    ],
)
def test_a_number_that_is_none_is_named_with_its_flag(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_numbers_as_typed():
    assert (positive("3"), gpus("0.5"), gpus("0"), gpus_or_auto("auto"), gpus_or_auto("2")) == (3, 0.5, 0, "auto", 2)
    for text, found in (("2", [0, 1]), ("3-4", [3, 4]), ("0,2", [0, 2]), ("2, 0-2", [2, 0, 1])):
        assert list(seeds(text)) == found
    for text in ("0", "-1", "3-1", "", "1,", "1-b"):
        with pytest.raises(Exception, match="names no seed"):
            seeds(text)
