"""Data of one's own, whose labels are wrong already: no bias is put into them."""

from __future__ import annotations

from mwray.config import override
from mwray.experiment import Experiment
from mwray.recipes import digits


def own() -> Experiment:
    """Your own data as they are: pictures in data/own, or `--set data.source=package.module:function`.

    A small network and the lengths of `digits`: a start, to be changed with `--set` and searched around.
    """
    changes = {
        "data.source": "folder:data/own",
        "data.num_validation": 100,
        "data.bias.noise": "none",
        "data.bias.rate": 0.0,
    }
    return override(digits.uniform(), changes)
