"""Folders in object storage, against a server that speaks S3: mirrors, a search that outlives its machine."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mwray.cli import main
from mwray.cluster.bucket import Keeper, at_hand, read_only
from mwray.cluster.claim import CLAIM
from mwray.cluster.search import _write_space, search
from mwray.cluster.status import read, words
from mwray.cluster.study import Study
from mwray.cluster.trial import Job
from mwray.config import ConfigError
from mwray.recipes import recipe
from mwray.records import Run
from mwray.remote import Mirror, Remote, is_remote
from mwray.storage import StorageError, write_atomically
from tests.cluster.helpers import finish_run, small, space
from tests.cluster.object_storage import ENVIRONMENT, bucket, place, server  # noqa: F401 - fixtures


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host/x", "ftp://.*s3"),
        ("s3:///x", "names no bucket"),
        ("s3://key:word@bucket/x", "credentials"),
        ("s3://key:wo/word@bucket/x", "credentials"),
        ("s3://key:word%40bucket/x", "credentials"),
        ("s3://bucket/x?access_key=a&secret_key=b", "credentials"),
        ("s3://bucket/x?endpoint_override=http://key:word@host", "credentials"),
        ("s3://bucket/x?scheme=http&endpoint_override=key:word%40host:9000", "credentials"),
        ("s3://bucket/x?http://key:word@host=1", "credentials"),
        ("s3:///key:word@bucket", "names no bucket"),
        ("s3://[key:word@bucket/x", "not an address"),
        ("s3://bucket/x?regoin=eu-west-1", "regoin.*region"),
    ],
)
def test_an_impossible_address_is_refused_without_repeating_a_secret(address, message):
    with pytest.raises(ConfigError, match=message) as refused:
        Remote(address)
    assert "word" not in str(refused.value) and "secret_key=b" not in str(refused.value)
    assert "--" not in str(refused.value)  # the address may be of --folder or of --status


def test_addresses_are_told_from_paths_and_joined():
    assert is_remote("s3://b/x") and not is_remote("runs/x") and not is_remote(None)
    remote = Remote("s3://b/x/?scheme=http")
    assert (remote / "trials/0").address == "s3://b/x/trials/0?scheme=http"
    assert remote.path == "b/x" and remote.scratch != (remote / "y").scratch


def test_what_is_pushed_is_pulled_elsewhere_and_what_is_removed_goes(place, tmp_path):  # noqa: F811
    one, two = Mirror(place, tmp_path / "one"), Mirror(place, tmp_path / "two")
    (tmp_path / "one" / "sub").mkdir()
    (tmp_path / "one" / "a.txt").write_bytes(b"1")
    (tmp_path / "one" / "sub" / "b.bin").write_bytes(os.urandom(3_000_000))
    (tmp_path / "one" / ".a.part").write_bytes(b"half")
    one.push()
    (tmp_path / "two" / "stale").write_bytes(b"x")
    two.pull()
    assert sorted(p.name for p in (tmp_path / "two").rglob("*") if p.is_file()) == ["a.txt", "b.bin"]
    assert (tmp_path / "two/sub/b.bin").read_bytes() == (tmp_path / "one/sub/b.bin").read_bytes()
    (tmp_path / "one" / "a.txt").unlink()
    one.push()
    assert set(place.objects()) == {"sub/b.bin"}


def test_objects_are_read_side_by_side_and_the_first_that_cannot_be_read_is_told(place, tmp_path, monkeypatch):  # noqa: F811
    for number in range(12):
        place.write(f"{number}", b"x")
    met, read = threading.Barrier(4, timeout=20), Remote.read
    monkeypatch.setattr(Remote, "read", lambda self, name: (met.wait(), read(self, name))[1])
    Mirror(place, tmp_path / "m").pull()
    assert len(list((tmp_path / "m").iterdir())) == 12

    def fails(self, name):
        raise StorageError("away")

    monkeypatch.setattr(Remote, "read", fails)
    with pytest.raises(StorageError, match="away"):
        Mirror(place, tmp_path / "m").pull()


def test_only_what_changed_is_sent_and_records_go_before_checkpoints_and_the_end_mark(place, tmp_path, monkeypatch):  # noqa: F811
    mirror, sent = Mirror(place, tmp_path), []
    write = Remote.write
    monkeypatch.setattr(Remote, "write", lambda self, name, data: (sent.append(name), write(self, name, data)))
    for name in ("done", "checkpoint-000001.pt", "records.jsonl", "weights.png"):
        (tmp_path / name).write_text(name)
    mirror.push()
    assert sent == ["records.jsonl", "weights.png", "checkpoint-000001.pt", "done"]
    sent.clear()
    (tmp_path / "records.jsonl").write_text("more")
    mirror.push()
    assert sent == ["records.jsonl"]


def test_files_that_are_there_already_are_not_read_and_one_replaced_within_a_tick_is_sent(place, tmp_path, monkeypatch):  # noqa: F811
    mirror, opened = Mirror(place, tmp_path), []
    for number in range(3):
        write_atomically(tmp_path / f"{number}", b"old")
    mirror.push()
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (opened.append(path.name), read_bytes(path))[1])
    mirror.push()
    assert opened == []
    before = (tmp_path / "1").stat()
    write_atomically(tmp_path / "1", b"new")  # of the same size, and at the same moment as the file's clock has it
    os.utime(tmp_path / "1", ns=(before.st_atime_ns, before.st_mtime_ns))
    mirror.push()
    assert opened == ["1"] and place.read("1") == b"new"


def test_what_the_driver_fetches_of_a_trial_is_not_sent_back(place, monkeypatch):  # noqa: F811
    keeper = Keeper(place)
    (place / "trials/0000-abc").write("records.jsonl", b"1")
    (place / "trials/0001-abc").write("records.jsonl", b"1")
    with keeper.open():
        (place / "trials/0000-abc").write("records.jsonl", b"12")
        (place / "trials/0000-abc").write("weights.png", b"large")
        keeper.fetch(keeper.folder / "trials" / "0000-abc")
        assert (keeper.folder / "trials/0000-abc/records.jsonl").read_bytes() == b"12"
        before = place.objects()
        keeper.push()
        after = place.objects()
        assert [after[n] for n in after if n.startswith("trials")] == [
            before[n] for n in before if n.startswith("trials")
        ]
        assert sorted(p.name for p in keeper.folder.rglob("trials/*/*")) == ["records.jsonl"] * 2


def test_an_object_whose_name_leads_out_of_the_folder_is_refused(place, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Remote, "objects", lambda self: {"../../etc/cron.d/x": None})
    with pytest.raises(ConfigError, match="leads out"):
        Mirror(place, tmp_path / "m").pull()
    assert list((tmp_path / "m").iterdir()) == []


def test_a_storage_that_does_not_answer_is_waited_for_and_then_named(place, monkeypatch):  # noqa: F811
    monkeypatch.setenv("MWRAY_STORAGE_PATIENCE", "0.6")
    calls = []

    class Away:
        def open_output_stream(self, path):
            calls.append(path)
            raise OSError("AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 7")

    place._opened = Away()
    with pytest.raises(StorageError, match=r"s3://tests/.*NETWORK_CONNECTION"):
        place.write("x", b"1")
    assert len(calls) > 1


def test_a_missing_bucket_is_told_at_once(bucket):  # noqa: F811
    with pytest.raises(StorageError, match="no-such-bucket"):
        Remote(
            bucket.format("x").replace("//tests/", "//no-such-bucket/").replace("&allow_bucket_creation=true", "")
        ).write("x", b"1")


def test_a_job_on_a_shared_disk_stays_as_it_is(tmp_path):
    job = Job.of(recipe("digits"), tmp_path, "validation.accuracy")
    with at_hand(job) as (same, push):
        assert same is job
        push()


@pytest.mark.slow
def test_one_training_in_object_storage_goes_on_on_another_machine(bucket, tmp_path, monkeypatch, capsys):  # noqa: F811
    remote = Remote(bucket.format("one-run"))
    command = ["train", "digits", "--set", "method.name=base", "--set", "optimizer.milestones=[]"]
    command += ["--set", "data.num_train=200", "--folder", remote.address]
    assert main([*command, "--set", "epochs=2"]) == 0
    assert {"records.jsonl", "done", "experiment.json"} <= set(remote.objects())
    shutil.rmtree(remote.scratch)  # another machine has no copy
    assert main([*command, "--set", "epochs=2"]) == 0
    assert "Finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["compare", "--folder"], "--folder"),
        (["tables", "--table", "3", "--folder"], "--folder"),
        (["report"], "the folder"),
        (["report", "--out"], "--out"),
        (["report", "--runs", "runs"], "--runs"),
        (["report", "--suspects"], "--suspects"),
        (["train", "--from"], "--from"),
        (["train", "--data"], "--data"),
        (["transfer", "--weight-net"], "--weight-net"),
    ],
)
def test_an_address_in_place_of_a_path_is_refused_and_not_repeated(options, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*options, "s3://key:word@bucket/x"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"mwray: {named}: an address was given") and "give a path" in said and "word" not in said
    assert list(tmp_path.iterdir()) == []


def test_the_status_of_a_search_in_object_storage_names_its_driver_what_runs_and_where_it_is(place, tmp_path, capsys):  # noqa: F811
    mirror = Mirror(place, tmp_path)
    study = Study(space(), tmp_path)
    _write_space(tmp_path, study.space, study.target)
    first, second, _ = (study.next() for _ in range(3))
    finish_run(first.folder, first.experiment, 0.91)
    study.finish(first.number, 0.91)
    told = {"beat": time.time(), "state": "running", "running": [second.folder.name]}
    (tmp_path / "heartbeat.json").write_text(json.dumps(told))
    mirror.push()
    place.write(CLAIM, json.dumps({"host": "far", "pid": 7, "since": "2026", "mark": "x"}).encode())
    before = place.objects()
    assert main(["tune", "--status", place.address]) == 0
    shown = capsys.readouterr().out
    assert place.objects() == before
    assert shown.startswith(f"{place.address}: small.yaml") and tempfile.gettempdir() not in shown
    assert "driven by process 7 on far, since 2026" in shown and "1 running, 1 finished, 1 waiting" in shown
    assert f"in {(place / 'trials' / first.folder.name).address}" in shown
    with read_only(place.address) as seen:
        assert not read(replace(seen, claim_age=100.0)).alive  # as if it had not been renewed for long
    place.delete(CLAIM)
    with read_only(place.address) as seen:
        assert "nobody drives it" in words(read(seen))[1]
    assert main(["tune", "--status", (place / "none").address]) == 2
    assert f"--status {(place / 'none').address}: no search is there" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_search_in_object_storage_survives_the_loss_of_its_machine(bucket, workers, monkeypatch, tmp_path):  # noqa: F811
    """The driver's folder is lost after one trial; another machine goes on, and no finished trial runs again."""
    remote = Remote(bucket.format(f"search-{workers}"))
    first = search(small(trials=1), remote, workers_per_trial=workers, display=False)
    assert first.finished and first.base.state == "finished"
    before = {name: found.changed for name, found in remote.objects().items() if name.startswith("trials/")}
    assert any("checkpoint-" in name for name in before) and any("events.out" in name for name in before)
    monkeypatch.setenv("MWRAY_SCRATCH", str(tmp_path / "another-machine"))
    second = search(small(trials=2), remote, workers_per_trial=workers, display=False)
    assert second.finished and len(second.rows) == 2
    assert second.best.objective == Run(second.best.folder).records()[-1]["validation.accuracy"]
    after = {name: found.changed for name, found in remote.objects().items()}
    assert {name: after[name] for name in before} == before
    assert not any(name.startswith("ray/") or name == CLAIM for name in after)
    with read_only(remote.address) as seen:
        assert sum(line.state == "finished" for line in read(seen).lines) == 3
        assert not any(p.suffix == ".pt" for p in seen.folder.rglob("*"))
    for name in after:
        assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"].encode() not in (remote.read(name) or b"")


@pytest.mark.slow
def test_a_search_goes_on_after_its_storage_was_away_and_nothing_is_lost(bucket, server, monkeypatch):  # noqa: F811
    monkeypatch.setenv("MWRAY_STORAGE_PATIENCE", "90")
    remote, held = Remote(bucket.format("away")), []

    def go_and_come_back():
        while not any("checkpoint-" in name for name in remote.objects()):
            time.sleep(0.2)
        server.stop()
        held.append(True)
        time.sleep(12)  # two beats of the driver, and longer than a trial would take
        server.start()
        held.append(False)

    outage = threading.Thread(target=go_and_come_back)
    outage.start()
    result = search(small("slow", epochs=20), remote, display=False)
    assert held == [True, False], "the search was over before its storage came back"
    outage.join()
    assert result.finished and len(result.rows) == 2
    with read_only(remote.address) as seen:
        for row in (*result.rows, result.base):
            run = Run(seen.folder / row.folder.relative_to(result.folder))
            assert [record["epoch"] for record in run.records()] == list(range(1, 21))
            assert len(json.loads((run.folder / "environment.json").read_text())) == 1  # begun once
    assert CLAIM not in remote.objects()


def test_the_driver_keeps_what_is_small_and_pushes_what_it_writes(place):  # noqa: F811
    keeper = Keeper(place)
    run = keeper.folder / "trials" / "0000-abc"
    (place / "trials/0000-abc").write("records.jsonl", b'{"epoch": 1}\n')
    (place / "trials/0000-abc").write("checkpoint-000001.pt", b"large")
    with keeper.open():
        assert [p.name for p in run.iterdir()] == ["records.jsonl"]
        (keeper.folder / "study.journal").write_text("line\n")
        keeper.push()
        assert place.read("study.journal") == b"line\n"
        (place / "trials/0000-abc").write("done", b"{}")
        keeper.fetch(run)
        assert (run / "done").exists()
        assert keeper.address(run) == (place / "trials/0000-abc").address
    assert place.read("trials/0000-abc/checkpoint-000001.pt") == b"large"
    assert CLAIM not in place.objects()
