"""One object in object storage, put and read by several at once."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from mwray.remote import Mirror, Remote
from mwray.storage import StorageError
from tests.cluster.object_storage import bucket, place, server  # noqa: F401 - fixtures


def test_an_object_takes_one_request_to_put_and_three_to_read(place, caplog):  # noqa: F811
    data = os.urandom(1_000_000)
    with caplog.at_level("INFO", "werkzeug"):
        place.write("x", data)
        assert [r.getMessage().split('"')[1].split()[0] for r in caplog.records] == ["PUT"]
        caplog.clear()
        assert place.read("x") == data
        assert len(caplog.records) == 3


class Meanwhile:
    """A file system where other drivers put objects anew, each after the next reader has asked for the size."""

    def __init__(self, remote, *others):
        self.real, self.others = remote.filesystem, list(others)

    def open_input_file(self, path):
        file = self.real.open_input_file(path)
        if self.others:
            self.others.pop(0)()
        return file


@pytest.mark.parametrize("size", [1, 100, 5000], ids=["shorter", "as long", "longer"])
def test_an_object_that_is_put_anew_while_it_is_read_comes_whole(place, size):  # noqa: F811
    place.write("x", b"a" * 100)
    writer = Remote(place.address)
    place._opened = Meanwhile(place, lambda: writer.write("x", b"b" * size))
    assert place.read("x") == b"b" * size


def test_an_object_that_is_removed_while_it_is_read_is_none(place):  # noqa: F811
    place.write("x", b"a")
    writer = Remote(place.address)
    place._opened = Meanwhile(place, lambda: writer.delete("x"))
    assert place.read("x") is None


def test_an_object_that_never_stays_as_it_is_is_named(place, monkeypatch):  # noqa: F811
    monkeypatch.setenv("MWRAY_STORAGE_PATIENCE", "0")
    place.write("x", b"a")
    writer = Remote(place.address)
    place._opened = Meanwhile(place, *(lambda n=n: writer.write("x", b"a" * n) for n in range(2, 12)))
    with pytest.raises(StorageError, match="x: was put anew each time"):
        place.read("x")


def test_an_error_without_a_word_is_told_by_its_kind(place, monkeypatch):  # noqa: F811
    def fails(path):
        raise TimeoutError

    monkeypatch.setenv("MWRAY_STORAGE_PATIENCE", "0")
    monkeypatch.setattr(place, "_opened", SimpleNamespace(open_input_file=fails))
    with pytest.raises(StorageError, match=r": TimeoutError, after 0 s"):
        place.read("x")


def test_a_place_below_is_asked_by_the_same_file_system(place):  # noqa: F811
    assert (place / "below").filesystem is not place.filesystem  # nobody had asked yet
    assert (place / "below").filesystem is place.filesystem


def test_an_object_that_goes_between_the_listing_and_the_reading_is_not_there(place, tmp_path, monkeypatch):  # noqa: F811
    place.write("kept", b"1")
    place.write("removed", b"1")
    mirror = Mirror(place, tmp_path)
    mirror.pull()
    objects, writer = Remote.objects, Remote(place.address)
    monkeypatch.setattr(Remote, "objects", lambda self: (objects(self), writer.delete("removed"))[0])
    mirror.pull()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    mirror.push()
    assert set(objects(place)) == {"kept"}
