"""What comes from the outside - files in the storage, names in files, strangers - runs nothing and leads nowhere."""

from __future__ import annotations

import hashlib
import json
import pickle
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import ray

from mwray.cli import main
from mwray.cluster.compare import compare
from mwray.cluster.study import Study
from mwray.config import ConfigError
from mwray.errors import UserError
from mwray.records import RecordError
from mwray.reports import arrays
from mwray.reports.cells import Cell, find, mark
from mwray.space import build
from mwray.train import checkpoint
from tests.cluster.helpers import SEARCH, space

OUTSIDE = ("../outside", "/outside", "..", "a/../../outside", "a\x00b")


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def bomb(tmp_path):
    """A pickle, and a check at the end that nobody has read it."""
    mark = tmp_path / "exploded"
    data = pickle.dumps(Bomb(mark))
    pickle.loads(data)
    assert mark.exists()  # it works
    mark.unlink()
    yield data
    assert not mark.exists()


def everything_below(folder):
    return {path.relative_to(folder) for path in folder.rglob("*")}


def test_a_checkpoint_that_is_a_pickle_is_not_read_even_with_the_right_checksum(tmp_path, bomb):
    digest = hashlib.sha256(bomb).hexdigest()[:16]
    (tmp_path / f"checkpoint-000003-{digest}.pt").write_bytes(bomb)
    assert checkpoint.latest(tmp_path) is None


def test_a_journal_that_is_a_pickle_is_not_read(tmp_path, bomb):
    folder = tmp_path / "search"
    folder.mkdir()
    (folder / "study.journal").write_bytes(bomb.replace(b"\n", b" ") + b"\n")
    with pytest.raises((UserError, ValueError)):
        Study(space(), folder)


def test_arrays_of_objects_are_not_read(tmp_path, bomb):
    objects = np.array([Bomb(tmp_path / "exploded")], dtype=object)
    np.savez(tmp_path / arrays.CURVES, **{"curve.epochs": objects})
    with pytest.raises(RecordError, match="not readable"):
        arrays.curves(tmp_path)


@pytest.mark.slow
def test_what_lies_in_rays_own_folder_is_never_restored_from(tmp_path, bomb, local_ray):
    from mwray.cluster.search import search

    folder = tmp_path / "search"
    for name in ("tuner.pkl", "trainable.pkl", "searcher-state-x.pkl", "search_gen_state-x.json"):
        path = folder / "ray" / "20260101-000000-1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bomb)
    fixed = {"epochs": 1, "optimizer.milestones": [], "model.name": "tests.cluster.networks:plain"}
    assert search(space(set=fixed, trials=1), folder, display=False).finished


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_recipe_s_name_leads_nowhere(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        build({"recipe": name, "search": SEARCH, "trials": 1}, "x.yaml")
    assert main(["train", name]) == 2
    with pytest.raises(ConfigError):
        compare([name], ["base"], 1, tmp_path / "compare")
    with pytest.raises(ConfigError):
        compare(["digits"], [name], 1, tmp_path / "compare")
    assert everything_below(tmp_path) == set()


@pytest.mark.parametrize("name", ["..yaml", "...yaml", "....yaml", "../../space.yaml", "/a/b/space.yaml"])
def test_a_space_s_name_is_that_of_a_folder_below(name, tmp_path):
    folder = tmp_path / build({"recipe": "digits", "search": SEARCH, "trials": 1}, name).name
    assert folder.resolve().parent == tmp_path


def test_a_trial_s_folder_lies_among_the_trials_whatever_was_searched(tmp_path):
    texts = [f"../../{'../' * depth}outside:factory" for depth in range(3)] + ["/outside:factory"]
    searched = build(
        {"recipe": "digits", "search": {"model.name": {"choice": ["mlp", "small"]}}, "trials": 2}, "x.yaml"
    )
    study = Study(searched, tmp_path)
    assert study.next().number == 0
    for text in texts:  # as if an older reader had let it through
        experiment = searched.base.__class__(model=searched.base.model.__class__(name=text))
        folder = study.trial_folder(0, experiment)
        assert folder.resolve().parent == (tmp_path / "trials").resolve()
        assert folder.name.startswith("0000-")


@pytest.mark.parametrize("name", ["../outside", "/outside", "..", ".hidden", ""])
@pytest.mark.parametrize("field", ["preset", "table"])
def test_a_copied_run_cannot_name_a_report_s_file_outside_of_it(field, name, tmp_path):
    cell = {"table": "1", "preset": "digits", "row": "MW-Net", "dataset": "CIFAR-10", "bias": "x", "seed": 0}
    mark(tmp_path / "good", Cell(**cell))
    assert len(find(tmp_path)) == 1
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "cell-000000000000.json").write_text(json.dumps({**cell, field: name}))
    with pytest.raises(RecordError, match="cannot be the name"):
        find(tmp_path)


@pytest.mark.slow
def test_a_local_ray_s_dashboard_is_on_loopback_and_wants_the_token(local_ray):
    address = ray._private.worker.global_worker.node.address_info["webui_url"]
    assert address.startswith("127.0.0.1:")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{address}/api/jobs/", timeout=30)
    assert refused.value.code in (401, 403)
