"""The verbs of studies as typed on a command line; trainings run here, but for one test over Ray."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from mwray import cli_reports, cli_studies
from mwray.config import ConfigError, override
from mwray.errors import UserError
from mwray.recipes import recipe
from mwray.records import Run
from mwray.train.loop import train
from mwray.transfer import load
from mwray.worker import LocalWorker

TINY = ["--seeds", "1", "--set", "epochs=1", "--set", "data.num_train=200", "--set", "data.num_test=100"]
TABLE3 = ["tables", "--table", "3", "--rows", "BaseModel,MW-Net", "--columns", "40", *TINY]


def typed(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(required=True)
    cli_studies.add_verbs(verbs)
    cli_reports.add_verbs(verbs)
    options = parser.parse_args(arguments)
    return options.verb(options)


@pytest.fixture
def here(monkeypatch):
    """Train in this process, and note what was not finished already."""
    missing = []

    def run(trainings, options, outlook=None):
        for one in trainings:
            if Run(one.folder).state != "done":
                missing.append(one.folder.name)
                train(one.experiment, one.folder, worker=LocalWorker("cpu"))
        return 0

    monkeypatch.setattr(cli_studies, "_train", run)
    return missing


def test_tables_are_trained_printed_and_reported_once(tmp_path, here, capsys):
    assert typed(*TABLE3, "--folder", str(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "Changed here: data.num_test=100, data.num_train=200, epochs=1." in said.partition("\n")[0]
    assert "2 trainings, 0 finished" in said and "after the paper's" in " ".join(said.split())
    assert (tmp_path / "report" / "index.html").exists()
    assert len(here) == 2
    assert typed(*TABLE3, "--folder", str(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "2 trainings, 2 finished" in said
    assert len(here) == 2

    assert typed("report", str(tmp_path), "--out", str(tmp_path / "other"), "--measure", "test.best") == 0
    assert "an oracle" in (tmp_path / "other" / "index.html").read_text()


def test_merging_two_machines_is_copying_folders(tmp_path, here):
    for machine, row in (("a", "BaseModel"), ("b", "MW-Net")):
        typed("tables", "--table", "3", "--rows", row, "--columns", "40", *TINY, "--folder", str(tmp_path / machine))
    subprocess.run(["cp", "-r", f"{tmp_path}/a/.", str(tmp_path / "b")], check=True)
    typed(*TABLE3, "--folder", str(tmp_path / "b"))
    assert len(here) == 2  # nothing was left to train
    lines = next((tmp_path / "b" / "report").glob("table-3-*.md")).read_text()
    assert "| BaseModel | missing" not in lines and "| MW-Net | missing" not in lines


def test_a_dry_run_says_what_there_is_to_do_and_writes_nothing(tmp_path, here, capsys):
    asked = ["tables", "--table", "2,3", "--preset", "paper", "--rows", "MW-Net", "--folder", str(tmp_path)]
    assert typed(*asked, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "Table 2, preset paper: 30 trainings, 0 finished" in said
    assert "Table 3, preset paper: 30 trainings, 0 finished" in said
    assert here == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("text", "seeds"), [("2", {0, 1}), ("3-4", {3, 4}), ("0,2", {0, 2}), ("1,3-4", {1, 3, 4})])
def test_a_part_of_the_seeds_is_a_part_of_the_study(tmp_path, text, seeds, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(cli_studies, "_train", lambda trainings, options, outlook: asked.extend(trainings) or 0)
    values = ["--rows", "BaseModel", "--columns", "40", "--seeds", text, "--folder", str(tmp_path)]
    typed("tables", "--table", "3", *values)
    assert {one.experiment.seed for one in asked} == seeds


@pytest.mark.parametrize("text", ["0", "-1", "x", "4-3", ""])
def test_seeds_that_are_none(text):
    with pytest.raises(SystemExit):
        typed("tables", "--seeds", text)


def test_a_weight_net_is_taken_out_of_a_run(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"epochs": 1, "data.num_train": 200, "data.num_test": 100, "optimizer.milestones": []}
    train(override(recipe("digits"), values), tmp_path / "run", worker=LocalWorker("cpu"))
    assert typed("transfer", "--export", "run", "--out", "net.json") == 0
    assert "method.file=net.json" in capsys.readouterr().out
    assert load("net.json").source["data"]["source"] == "digits"
    with pytest.raises(UserError, match="nowhere"):
        typed("transfer", "--export", "nowhere")
    (tmp_path / "half.json").write_text((tmp_path / "net.json").read_text()[:100])
    with pytest.raises(UserError, match=r"half.json cannot be used: not a weight net, or cut short"):
        typed("transfer", "--weight-net", "half.json")


def test_mistakes(tmp_path, here):
    with pytest.raises(SystemExit):
        typed("tables", "--table", "", "--folder", str(tmp_path))
    with pytest.raises(ConfigError, match=r"--table '7' is not known"):
        typed("tables", "--table", "7", "--folder", str(tmp_path))
    with pytest.raises(ConfigError, match=r"'epochs' is not of the form field=value"):
        typed("tables", "--set", "epochs", "--folder", str(tmp_path))
    assert here == []


def test_transfer_prints_its_table(tmp_path, here, capsys):
    assert typed("transfer", "--methods", "base", *TINY, "--folder", str(tmp_path)) == 0
    assert "| MW-Net transferred | " in capsys.readouterr().out


@pytest.mark.parametrize(
    "module", ["mwray.cli_studies", "mwray.cli_reports", "mwray.reports.report", "mwray.studies.plan"]
)
def test_reports_and_plans_load_without_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
def test_a_table_over_ray(tmp_path):
    assert typed(*TABLE3, "--folder", str(tmp_path)) == 0
    assert len(list(tmp_path.glob("*/*/done"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("table", "column"), [("1", "imbalance 10"), ("2", "60"), ("5", "flip 40"), ("6", "flip 40")])
def test_every_row_of_a_study_trains(tmp_path, here, table, column):
    values = ["--seeds", "1", "--set", "epochs=2", "--set", "data.num_test=100"]
    assert typed("tables", "--table", table, "--columns", column, *values, "--folder", str(tmp_path)) == 0
    assert "| missing |" not in next((tmp_path / "report").glob(f"table-{table}-*.md")).read_text()
