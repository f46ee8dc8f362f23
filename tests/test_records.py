"""A run's folder is readable at any moment and never half-written."""

from __future__ import annotations

import errno
import json

import pytest

from mwray.records import RecordError, Run, write_atomically


def started(tmp_path, records=()):
    run = Run(tmp_path / "run")
    run.start({"seed": 1}, {"host": "here"}, 0)
    for record in records:
        run.append(record)
    return run


def test_states_of_a_run(tmp_path):
    assert Run(tmp_path / "run").state == "empty"
    run = started(tmp_path)
    assert run.state == "started"
    assert run.summary() is None
    run.finish({"test.last": 0.5})
    assert run.state == "done"
    assert run.summary() == {"test.last": 0.5}


def test_a_summary_is_that_of_the_experiment_asked_for_and_read_once(tmp_path, monkeypatch):
    run = started(tmp_path)
    assert run.summary_of({"seed": 1}) is None
    run.finish({"test.last": 0.5})
    asked, summary = [], Run.summary
    monkeypatch.setattr(Run, "summary", lambda self: (asked.append(1), summary(self))[1])
    assert run.summary_of({"seed": 1}) == {"test.last": 0.5} and len(asked) == 1
    assert run.summary_of({"seed": 2}) is None


def test_a_last_line_cut_short_is_left_out(tmp_path):
    run = started(tmp_path, [{"epoch": 1}, {"epoch": 2}])
    with (run.folder / "records.jsonl").open("a") as file:
        file.write('{"epoch": 3, "tr')
    assert [r["epoch"] for r in run.records()] == [1, 2]
    run.start({"seed": 1}, {}, 2)
    run.append({"epoch": 3})
    assert [r["epoch"] for r in run.records()] == [1, 2, 3]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    run = started(tmp_path, [{"epoch": 1}])
    path = run.folder / "records.jsonl"
    path.write_text("not json\n" + path.read_text())
    with pytest.raises(RecordError, match="records.jsonl, line 1"):
        run.records()


@pytest.mark.parametrize("name", ["records.jsonl", "done", "environment.json"])
def test_a_file_that_vanishes_while_it_is_looked_for_is_not_there(tmp_path, monkeypatch, name):
    run = started(tmp_path, [{"epoch": 1}])
    run.finish({"test.last": 0.5})
    read = type(tmp_path).read_bytes

    def vanishes(path):
        if path.name == name:
            path.unlink()
        return read(path)

    monkeypatch.setattr(type(tmp_path), "read_bytes", vanishes)
    looked = {"records.jsonl": run.records, "done": run.summary, "environment.json": run.starts}[name]
    assert not looked()


def test_a_reader_at_any_moment_of_an_addition_sees_whole_records(tmp_path):
    run = started(tmp_path, [{"epoch": 1}])
    path = run.folder / "records.jsonl"
    before, added = path.read_bytes(), json.dumps({"epoch": 2, "test.accuracy": 0.25}).encode() + b"\n"
    for size in range(len(added) + 1):
        path.write_bytes(before + added[:size])
        assert run.records() == [{"epoch": 1}, {"epoch": 2, "test.accuracy": 0.25}][: 1 + (size >= len(added) - 1)]
        path.write_bytes(before + bytes(size) + added[size:])  # as a network file system may bring it
        assert [record["epoch"] for record in run.records()] == [1, 2][: 1 + (size == 0)]


def test_going_on_drops_what_the_checkpoint_does_not_hold(tmp_path):
    run = started(tmp_path, [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}])
    run.start({"seed": 1}, {"host": "there"}, 1)
    assert [r["epoch"] for r in run.records()] == [1]
    starts = json.loads((run.folder / "environment.json").read_text())
    assert [(s["host"], s["epoch"]) for s in starts] == [("here", 0), ("there", 1)]


def test_a_folder_of_another_experiment_is_refused(tmp_path):
    run = started(tmp_path)
    with pytest.raises(RecordError, match="another experiment"):
        run.start({"seed": 2}, {}, 0)
    assert run.experiment() == {"seed": 1}


def test_missing_and_unreadable_files_are_named(tmp_path):
    with pytest.raises(RecordError, match="is .* the folder of a run"):
        Run(tmp_path).experiment()
    for content in (b"{", b"\x89\xff"):
        (tmp_path / "experiment.json").write_bytes(content)
        with pytest.raises(RecordError, match="experiment.json: not readable as JSON"):
            Run(tmp_path).experiment()
    (tmp_path / "records.jsonl").write_bytes(b'{"epoch": 1}\n\x89\xff\n{"epoch": 3}\n')
    with pytest.raises(RecordError, match="records.jsonl, line 2: not a JSON record"):
        Run(tmp_path).records()


def test_a_write_that_fails_names_the_file_that_was_asked_for(tmp_path, monkeypatch):
    def refused(source, target):
        raise PermissionError(errno.EPERM, "Operation not permitted", source, None, target)

    monkeypatch.setattr("os.replace", refused)
    with pytest.raises(PermissionError) as error:
        write_atomically(tmp_path / "file", b"new")
    assert str(error.value) == f"[Errno 1] Operation not permitted: '{tmp_path / 'file'}'"
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
