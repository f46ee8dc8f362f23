"""Storage that fails for a while: waited for, and nothing half-written, whatever happens in between."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from mwray import storage
from mwray.records import Run
from mwray.storage import Appender, StorageError, files_below, patiently, read_whole, remove_parts, write_atomically


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Time that passes only by sleeping."""
    now = [0.0]
    monkeypatch.setattr(storage.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def failing(monkeypatch, name, number, times):
    """Let os.`name` fail so many times, then work."""
    real, left = getattr(os, name), [times]

    def call(*given, **named):
        if left[0] > 0:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return real(*given, **named)

    monkeypatch.setattr(os, name, call)
    return left


def test_a_file_that_is_replaced_while_it_is_read_is_opened_again(tmp_path, monkeypatch):
    path, read = tmp_path / "file", type(tmp_path).read_bytes
    assert read_whole(path) is None and read_whole(path / "below") is None
    path.write_bytes(b"new")
    assert read_whole(path / "below") is None
    stale = [OSError(errno.ESTALE, "Stale file handle")] * (storage.STALE_TRIES - 1)

    def replaced(path):
        if stale:
            raise stale.pop()
        return read(path)

    monkeypatch.setattr(type(tmp_path), "read_bytes", replaced)
    assert read_whole(path) == b"new"
    stale += [OSError(errno.ESTALE, "Stale file handle")] * storage.STALE_TRIES
    with pytest.raises(OSError, match="Stale"):
        read_whole(path)


def test_folders_that_vanish_while_they_are_searched_through_are_passed_over(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "done").touch()
    scan = os.scandir

    def vanishing(folder):
        if str(folder).endswith("b"):
            shutil.rmtree(folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert files_below(tmp_path, "done") == [tmp_path / "a" / "done", tmp_path / "c" / "done"]
    assert files_below(tmp_path / "none", "done") == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.EIO, errno.ENOENT])
def test_a_write_is_tried_again_until_storage_works_and_says_so(tmp_path, monkeypatch, caplog, number):
    failing(monkeypatch, "fsync", number, 3)
    write_atomically(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert os.strerror(number) in caplog.text and "storage works again" in caplog.text
    assert len(caplog.records) == 2  # once, not at each attempt


def test_after_its_patience_it_fails_with_the_reason_the_cure_and_the_old_file(tmp_path, monkeypatch, clock):
    write_atomically(tmp_path / "file", b"old")
    failing(monkeypatch, "fsync", errno.ENOSPC, 10**6)
    with pytest.raises(StorageError, match=r"file: No space left on device, still after 120 s\. Make room there"):
        write_atomically(tmp_path / "file", b"new")
    assert clock[0] == pytest.approx(storage.DEFAULT_PATIENCE)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_patience_is_the_environments(monkeypatch, clock):
    monkeypatch.setenv(storage.PATIENCE, "7")
    with pytest.raises(StorageError, match="after 7 s"):
        patiently(lambda: os.stat("/nowhere/at/all"), "x")
    assert clock[0] == pytest.approx(7)


def test_what_waiting_does_not_mend_is_raised_at_once(tmp_path, clock):
    with pytest.raises(OSError) as error:
        write_atomically(tmp_path / ("x" * 400), b"")
    assert error.value.errno == errno.ENAMETOOLONG and clock[0] == 0


def test_a_file_that_cannot_be_written_is_named_and_not_its_half_written_part(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomically(tmp_path / "folder", b"x")
    assert caught.value.filename == str(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_vanished_is_waited_for_and_not_made_anew(tmp_path, monkeypatch, clock):
    folder = tmp_path / "mount" / "run"
    folder.mkdir(parents=True)
    (tmp_path / "mount").rename(tmp_path / "away")

    def sleep(seconds):
        clock[0] += seconds
        if clock[0] > 30 and not folder.exists():
            (tmp_path / "away").rename(tmp_path / "mount")

    monkeypatch.setattr(storage.time, "sleep", sleep)
    write_atomically(folder / "file", b"x", make_folder=False)
    assert (folder / "file").read_bytes() == b"x" and clock[0] > 30
    assert not (tmp_path / "away").exists()


@pytest.mark.parametrize("failure", ["short write", "failed sync"])
def test_a_line_that_was_half_appended_is_cut_off_before_the_next_attempt(tmp_path, monkeypatch, failure):
    run = Run(tmp_path)
    run.start({}, {}, 0)
    run.append({"epoch": 1})
    real, calls = os.write, []

    def half(handle, data):
        calls.append(len(data))
        if len(calls) in (1, 3):  # a full disk takes a part, then nothing more
            return real(handle, bytes(data)[: len(data) // 2])
        if len(calls) in (2, 4):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data)

    if failure == "short write":
        monkeypatch.setattr(os, "write", half)
    else:
        failing(monkeypatch, "fsync", errno.EIO, 2)
    run.append({"epoch": 2})
    run.append({"epoch": 3})
    assert (tmp_path / "records.jsonl").read_text() == '{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n'


def test_an_addition_that_fails_for_good_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"one\n")
    appender = Appender(path)
    with monkeypatch.context() as patch:
        failing(patch, "fsync", errno.ENOSPC, 10**6)
        with pytest.raises(StorageError):
            appender.add(b"two\n")
        assert path.read_bytes() == b"one\n"
    appender.add(b"three\n")
    assert path.read_bytes() == b"one\nthree\n"


def test_parts_of_a_killed_writer_are_removed_and_nothing_else(tmp_path):
    for name in (".done.x1y2.part", "done", ".hidden"):
        (tmp_path / name).touch()
    remove_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "done"]
