"""Freed memory stays with the process: counted in page faults, in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from mwray.train import memory

FAULTS = """
import resource, sys, threading, torch
from mwray.train.memory import keep_freed_memory
def work():
    print(keep_freed_memory())
    def step():
        held = [torch.ones(2**21) for _ in range(12)]  # 96 MiB in blocks of 8
    for _ in range(3):
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        step()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / 3 / 2**20)
if sys.argv[1] == "thread":
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""


def faults(where: str, switch: str) -> tuple[bool, float]:
    """Whether the switch says so, and MiB that a step of 96 MiB has cleared again."""
    run = subprocess.run(
        [sys.executable, "-c", FAULTS, where],
        env={**os.environ, memory.SWITCH: switch, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    kept, cleared = run.stdout.split()
    return kept == "True", float(cleared)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a switch of glibc")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_a_second_step_finds_its_memory(where):
    kept, cleared = faults(where, "1")
    assert kept and cleared < 10
    if where == "main":  # what glibc then does by itself depends on its thresholds and on huge pages
        kept, _ = faults(where, "0")
        assert not kept


def test_nothing_happens_without_glibc(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False
