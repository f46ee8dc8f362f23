"""Checkpoints: whole or not at all, the newest whole one wins, nothing is unpickled."""

from __future__ import annotations

import pickle

import pytest
import torch

from mwray.train import checkpoint


def test_the_newest_two_are_kept(tmp_path):
    for epoch in range(1, 5):
        checkpoint.save(tmp_path, epoch, {"method": {"w": torch.full((3,), epoch)}})
    assert [int(p.name[11:17]) for p in checkpoint.files(tmp_path)] == [4, 3]
    assert checkpoint.latest(tmp_path)["epoch"] == 4


def test_an_empty_folder_has_none(tmp_path):
    assert checkpoint.latest(tmp_path) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_one_is_passed_over_and_named(tmp_path, caplog, damage):
    checkpoint.save(tmp_path, 1, {"x": torch.arange(1000)})
    path = checkpoint.save(tmp_path, 2, {"x": torch.arange(1000)})
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes({"cut": data[:-100], "flip": data, "empty": b""}[damage])
    assert checkpoint.latest(tmp_path)["epoch"] == 1
    assert path.name in caplog.text


def test_a_reader_finds_the_newest_while_a_training_goes_on(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, {})
    load = checkpoint.load

    def meanwhile(path, device="cpu"):
        monkeypatch.setattr(checkpoint, "load", load)
        for epoch in (2, 3):
            checkpoint.save(tmp_path, epoch, {})
        return load(path, device)

    monkeypatch.setattr(checkpoint, "load", meanwhile)
    assert checkpoint.latest(tmp_path)["epoch"] == 3


def test_a_pickle_in_its_place_does_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    for name, write in (("plain", pickle.dump), ("torch", torch.save)):
        path = tmp_path / f"checkpoint-{name}.pt"
        with path.open("wb") as file:
            write({"epoch": 1, "x": Bomb()}, file)
        with pytest.raises(checkpoint.CheckpointError, match="not a checkpoint"):
            checkpoint.load(path)
    assert not (tmp_path / "exploded").exists()


def test_a_newer_one_from_elsewhere_is_taken(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    checkpoint.save(tmp_path / "a", 1, {})
    other = checkpoint.save(tmp_path / "b", 5, {})
    assert checkpoint.latest(tmp_path / "a", extra=other)["epoch"] == 5
    assert checkpoint.latest(tmp_path / "b", extra=checkpoint.files(tmp_path / "a")[0])["epoch"] == 5


def test_a_disk_that_fills_up_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MWRAY_STORAGE_PATIENCE", "0")
    checkpoint.save(tmp_path, 1, {"x": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 2, {"x": 2})
    assert checkpoint.latest(tmp_path)["epoch"] == 1
    assert len(list(tmp_path.iterdir())) == 1
