"""scikit-learn's digits: real handwriting, inside a package that is installed anyway, minutes on a laptop.

1,797 images of 8x8 pixels: 500 for the test, 100 clean ones for the weight net, 190 for selection, 1,007 with wrong
labels to train on. A run takes some five seconds on one core. The weight net's rate is 0.05 where the paper has 1e-3: a
run has 400 steps and the paper's have 20,000 to 50,000. (At 0.1, and with Adam at 3e-3, one seed of five saturates at
60 % noise: V is 1 for every loss, and Eq. 40 gives nothing that would bring it back.)
"""

from __future__ import annotations

from mwray.config import override
from mwray.data.settings import Bias, Data
from mwray.experiment import Experiment
from mwray.meta.settings import WeightNetSettings
from mwray.methods.settings import MWNetSettings
from mwray.models.settings import Model
from mwray.optim import SGD


def uniform() -> Experiment:
    """Forty per cent of the labels drawn anew. `mwray train digits`; see RESULTS.md for what to expect."""
    return Experiment(
        data=Data(source="digits", num_meta=100, num_validation=190, bias=Bias(noise="uniform", rate=0.4)),
        model=Model(name="small"),
        method=MWNetSettings(weight_net=WeightNetSettings(lr=0.05)),
        optimizer=SGD(lr=0.1, milestones=(30, 36)),
        epochs=40,
    )


def uniform60() -> Experiment:
    """Sixty per cent. `mwray train digits-uniform60`."""
    return override(uniform(), {"data.bias.rate": 0.6})


def flip() -> Experiment:
    """Forty per cent to two other classes, Table 3's noise. `mwray train digits-flip`."""
    return override(uniform(), {"data.bias.noise": "flip2"})


def longtail() -> Experiment:
    """Every label right, the largest class fifty times the smallest. `mwray train digits-longtail`."""
    return override(uniform(), {"data.bias.noise": "none", "data.bias.rate": 0.0, "data.bias.imbalance": 50.0})
