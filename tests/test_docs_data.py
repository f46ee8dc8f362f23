"""The example of docs/data.md runs as it stands there, by the commands that it names."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import mwray
from mwray.cli import main

TEXT = (Path(__file__).parent.parent / "docs" / "data.md").read_text()
(EXAMPLE,) = (code for code in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "OwnFeatures" in code)
(COMMAND,) = re.findall(r"    python launch/(train\.py vectors .*my_table:load(?:.*\\\n)?.*)", TEXT)


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_table.py").write_text(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_table_is_trained_on_and_classified(here, capsys):
    _, *arguments = shlex.split(COMMAND.replace("\\\n", " "))
    shorter = ["--set", "epochs=12", "--set", "optimizer.milestones=[10]", "--folder", "run", "--device", "cpu"]
    assert main(["train", *arguments, *shorter]) == 0
    from my_table import load  # type: ignore[import-not-found]

    data = load()
    classifier = mwray.load("run", "cpu")
    right = classifier(data.test_features).argmax(1).numpy() == data.test_labels
    assert right.mean() > 0.93 and classifier.classes == ("malignant", "benign")  # the largest class is 0.63
    np.save("rows.npy", data.test_features)
    assert main(["predict", "run", "rows.npy", "--device", "cpu"]) == 0
    with (here / "run" / "predictions.csv").open() as file:
        predicted = [int(row["predicted"]) for row in csv.DictReader(file)]
    assert (np.array(predicted) == data.test_labels).tolist() == right.tolist()
    assert main(["report", "--suspects", "run"]) == 0
    assert "338 training samples, the least trusted first" in capsys.readouterr().out
