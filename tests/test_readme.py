"""The README's own example runs, and the commands it names exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

import mwray
from mwray.cli import main
from mwray.data.sources import load
from mwray.recipes import RECIPES

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def example(word: str) -> str:
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", TEXT, re.S) if word in code)
    return code


def test_the_loop_of_your_own_runs(capsys):
    code = example("MetaWeightNet")
    torch.manual_seed(0)
    batches = [(torch.randn(8, 4), torch.randint(3, (8,))) for _ in range(5)]
    exec(code, {"model": nn.Linear(4, 3), "noisy_batches": batches, "clean_batches": batches[:2]})
    assert "tensor" in capsys.readouterr().out


def test_the_data_of_your_own_are_read(tmp_path, monkeypatch):
    (tmp_path / "my_data.py").write_text(example("OwnData"))
    parts = {"train": 40, "test": 20, "clean": 20}
    arrays = {f"{part}_images": np.zeros((n, 8, 8), np.uint8) for part, n in parts.items()}
    np.savez(tmp_path / "my_data.npz", **arrays, **{f"{part}_labels": np.arange(n) % 4 for part, n in parts.items()})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    source = load("my_data:load")
    assert len(source.class_names) == 4 and len(source.clean_labels) == 20
    assert "data.source=my_data:load" in TEXT


def test_commands_follow_the_line_that_makes_python_the_right_one():
    assert -1 < TEXT.find(". .venv/bin/activate") < TEXT.find("    python launch/")


def test_a_notebook_completes_what_is_imported_late():
    assert "MetaWeightNet" in dir(mwray)


def test_files_and_recipes_that_it_names_exist():
    for path in re.findall(r"(?:launch|search_spaces|docs)/[\w./-]+\.\w+", TEXT):
        assert (ROOT / path).exists(), path
    for recipe in re.findall(r"launch/train.py ([\w-]+)", TEXT):
        assert recipe in RECIPES


def test_recipes_are_listed_with_what_they_are(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in RECIPES)
    assert main(["recipes", "digits", "--set", "seed=7"]) == 0
    assert "seed = 7" in capsys.readouterr().out


def test_a_mistake_is_one_line_and_exit_code_two(capsys):
    assert main(["train", "digits", "--set", "data.bias.rat=1"]) == 2
    message = capsys.readouterr().err
    assert message == "mwray: data.bias.rat: there is no such field. Did you mean 'data.bias.rate'?\n"
