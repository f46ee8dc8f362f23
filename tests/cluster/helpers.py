"""Small spaces, and runs that look finished without having been trained."""

from __future__ import annotations

from mwray.config import to_dict
from mwray.records import Run
from mwray.space import build

SEARCH = {
    "method.weight_net.shape": {"choice": ["1-50-1", "1-100-1", "1-10-10-1"]},
    "optimizer.lr": {"float": [0.02, 0.2], "log": True},
    "data.num_meta": {"int": [20, 200], "step": 20},
}

SMALL = {"method.weight_net.shape": {"choice": ["1-50-1", "1-100-1"]}, "optimizer.lr": SEARCH["optimizer.lr"]}


def space(search=None, **changes):
    """A space over digits, two epochs long."""
    data = {
        "recipe": "digits",
        "set": {"epochs": 2, "optimizer.milestones": []},
        "search": search or SEARCH,
        "start": [{}],
        "trials": 6,
    }
    return build({**data, **changes}, "small.yaml")


def small(network="plain", epochs=2, search=None, **changes):
    """Two points of a network of `tests.cluster.networks`, over a choice of weight nets and a range of rates."""
    fixed = {"epochs": epochs, "optimizer.milestones": [], "model.name": f"tests.cluster.networks:{network}"}
    return space(search or SMALL, **{"set": fixed, "trials": 2, **changes})


def finish_run(folder, experiment, accuracy, epochs=None):
    """Write the folder of a run that trained `epochs` epochs (default: all, and is done)."""
    run = Run(folder)
    run.start(to_dict(experiment), {}, 0)
    for epoch in range(1, (epochs or experiment.epochs) + 1):
        run.append({"epoch": epoch, "validation.accuracy": accuracy, "test.accuracy": accuracy - 0.1, "seconds": 1.5})
    if epochs is None:
        run.finish({"epochs": experiment.epochs, "validation.last": accuracy})
    return run
