"""A training taken up again from what it left: the same bits, or a sentence about why not."""

from __future__ import annotations

import json

import pytest
import torch

from mwray.cli import main
from mwray.config import ConfigError, to_dict
from mwray.recipes import recipe
from mwray.records import RecordError
from mwray.repeat import Repeat, repeat

TINY = ["--set", "epochs=1", "--set", "optimizer.milestones=[]", "--set", "data.num_train=200"]


def checkpoint_of(folder):
    """Its name carries the checksum of what is in it."""
    (path,) = folder.glob("checkpoint-000001-*.pt")
    return path.name


def test_a_run_is_repeated_with_the_same_bits_from_its_folder_or_a_best_json(tmp_path):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)  # sums in two parts: the repetition must know
        first = tmp_path / "first"
        assert main(["train", "digits", *TINY, "--folder", str(first)]) == 0
        best = {"trial": "3", "experiment": json.loads((first / "experiment.json").read_text())}
        best["environment"] = json.loads((first / "environment.json").read_text())[-1]
        assert best["environment"]["threads"] == 2
        (tmp_path / "best.json").write_text(json.dumps(best))
        torch.set_num_threads(1)
        assert main(["train", "--from", str(tmp_path / "best.json"), "--folder", str(tmp_path / "again")]) == 0
        assert checkpoint_of(tmp_path / "again") == checkpoint_of(first)
    finally:
        torch.set_num_threads(threads)
    assert repeat(first) == repeat(tmp_path) == repeat(tmp_path / "best.json")


def test_fields_can_be_changed_on_the_way(tmp_path):
    (tmp_path / "experiment.json").write_text(json.dumps(to_dict(recipe("digits-flip"))))
    changes = [*TINY, "--set", "seed=5", "--set", "method.name=base"]
    assert main(["train", "--from", str(tmp_path), *changes, "--folder", str(tmp_path / "run")]) == 0
    found = json.loads((tmp_path / "run" / "experiment.json").read_text())
    assert (found["data"]["bias"]["noise"], found["seed"], found["method"]["name"]) == ("flip2", 5, "base")


def test_what_else_than_the_experiment_decides_bits_is_told():
    experiment = recipe("digits")
    assert Repeat(experiment, device="cpu").differs(1, "cpu") is None
    assert "--workers 2" in Repeat(experiment, workers=2).differs(1, "cpu")
    assert "NVIDIA" in Repeat(experiment, device="NVIDIA H100").differs(1, "cpu")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("best.json", "{", "not readable as JSON"),
        ("best.json", "[1]", "holds list"),
        ("best.json", '{"experiment": {"epoch": 3}}', r"epoch: there is no such field. Did you mean 'epochs'"),
        ("other.txt", "x", "neither the folder of a run"),
    ],
)
def test_mistakes_name_the_file_and_what_would_do(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=f"--from {tmp_path}.*{says}"):
        repeat(tmp_path)


def test_no_such_file_two_sources_and_a_broken_environment(tmp_path, capsys):
    assert main(["train", "--from", str(tmp_path / "none.json")]) == 2
    assert main(["train", "digits", "--from", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "none.json: No such file" in said and "both given" in said
    (tmp_path / "experiment.json").write_text(json.dumps(to_dict(recipe("digits"))))
    (tmp_path / "environment.json").write_text("[{")
    with pytest.raises(RecordError, match=r"environment.json: not readable"):
        repeat(tmp_path)
