"""A search over data of one's own: what a user's function returns, loaded by every process of a local Ray (slow)."""

from __future__ import annotations

from pathlib import Path

import pytest

from mwray.cluster.search import search
from mwray.records import Run
from mwray.space import load
from mwray.train.loop import train
from mwray.worker import LocalWorker
from tests.data.own_sets import own_data, save

SPACE = Path(__file__).parents[2] / "search_spaces" / "own.yaml"
SHORT = ["data.num_meta=6", "data.num_validation=3", "batch_size=20", "epochs=3", "optimizer.milestones=[2]"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["function", "folder"])
def test_a_search_of_the_shipped_space_over_data_of_ones_own(kind, tmp_path, local_ray):
    source = "tests.data.own_sets:with_clean" if kind == "function" else f"folder:{save(tmp_path / 'own', own_data())}"
    space = load(SPACE, [f"data.source={source}", *SHORT])
    assert space.base.data.source == source and not space.base.data.bias.rate
    result = search(space, tmp_path / "search", trials=4, display=False)
    assert result.finished and [row.state for row in result.rows] == ["finished"] * 4
    assert result.base.state == "finished"
    assert result.rows[0].experiment.method.weight_net.shape == "1-100-1"  # the recipe's own values come first
    for row in (*result.rows, result.base):
        run = Run(row.folder)
        assert [record["epoch"] for record in run.records()] == [1, 2, 3]
        assert run.experiment()["data"]["source"] == source
        assert not {"train.accuracy_true", "train.weight_auc"} & set(run.records()[-1])  # nobody knows the true labels
    assert result.best.objective == max(row.objective for row in result.rows)

    train(result.best.experiment, tmp_path / "alone", worker=LocalWorker("cpu"))
    alone = next((tmp_path / "alone").glob("checkpoint-000003-*.pt"))
    assert (result.best.folder / alone.name).exists()  # to the last bit: its name carries its checksum
    assert (result.best.folder / "weights.png").exists()
