"""What a user may mistype: one line that names it, an exit code, and nothing left behind."""

from __future__ import annotations

import pytest

from mwray.cli import main
from mwray.cli_arguments import gpus, gpus_or_auto, positive, seeds
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
        (["--set", "batch_size=5000"], "batch_size: a batch of 5000 images cannot be drawn from 1007"),
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
