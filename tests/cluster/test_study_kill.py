"""A study over a real Ray, killed in the middle: the same command skips what is done and ends with the same bits."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mwray.config import read
from mwray.experiment import Experiment
from mwray.records import Run
from mwray.train.loop import train
from mwray.worker import LocalWorker

ROOT = Path(__file__).parent.parent.parent
ASKED = ["--table", "3", "--rows", "BaseModel,MW-Net", "--columns", "20,40", "--seeds", "1"]
SHORT = ["--set", "epochs=8", "--set", "data.num_train=300", "--set", "data.num_test=100"]


def start(folder: Path, home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "launch" / "tables.py"), *ASKED, *SHORT, "--folder", str(folder)]
    environment = {**os.environ, "HOME": str(home), "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(folder: Path) -> dict[str, Path]:
    return {path.parent.name: path for path in folder.glob("*/*/done")}


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_study_goes_on(tmp_path):
    folder = tmp_path / "runs"
    first = start(folder, tmp_path)
    try:
        wait_for(lambda: finished(folder) or first.poll() is not None, 300)
        first.send_signal(signal.SIGKILL)
    finally:
        first.kill()
        first.wait()
    done = {name: path.stat().st_mtime_ns for name, path in finished(folder).items()}
    assert 0 < len(done) < 4, "killed too late to show anything"

    # At once: what was in training may go on for a while without its driver, and whoever takes it up waits for that.
    second = start(folder, tmp_path)
    said, _ = second.communicate(timeout=600)
    assert second.returncode == 0, said
    skipped = re.search(r"(\d) of 4 trainings are finished already", said)
    assert skipped and int(skipped[1]) >= len(done), said
    after = finished(folder)
    assert len(after) == 4
    assert {name: after[name].stat().st_mtime_ns for name in done} == done  # not trained again

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each training of a study has
    try:
        for name, path in after.items():
            experiment = read(Experiment, Run(path.parent).experiment())
            train(experiment, tmp_path / "whole" / name, worker=LocalWorker("cpu"))
    finally:
        torch.set_num_threads(threads)
    for name, path in after.items():
        expected = [record["test.accuracy"] for record in Run(tmp_path / "whole" / name).records()]
        assert [record["test.accuracy"] for record in Run(path.parent).records()] == expected
