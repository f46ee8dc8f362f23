"""The paper's protocol and those of its three released programs, which differ from it and from one another.

All are Meta-Weight-Net with batches of 100 + 100; what sets each apart is in its own docstring. The released programs
report the best test accuracy over epochs; our records name it "test.best", an oracle, beside that of the last epoch.
"""

from __future__ import annotations

from mwray.config import override
from mwray.experiment import Experiment
from mwray.recipes import noise


def paper() -> Experiment:
    """Section 4, CIFAR-10, 40 % uniform: WRN-28-10, 40 epochs, Eq. 40. Published: 89.27 +- 0.28."""
    return noise.cifar10_uniform()


def official_pgc() -> Experiment:
    """The program nearest to the paper (2019): 20,000 steps, drops at 18,000 and 19,000, Nesterov momentum.

    Its 40.8 passes over 49,000 images are 41 epochs here, with drops at 37 and 39. It draws every batch anew from all
    images; here an epoch is a pass. Its virtual step drops one step after the real one; here both drop together.
    """
    changes = {"epochs": 41, "optimizer.milestones": [37, 39], "optimizer.nesterov": True}
    return override(paper(), changes)


def official_stable() -> Experiment:
    """The later rewrite (2020), flip noise: ResNet-32, 120 epochs, drops at 80 and 100, V_i / n, Adam 1e-3.

    Its command line has a switch for Nesterov momentum that it never passes on: plain momentum.
    """
    return override(
        noise.cifar10_flip(),
        {
            "epochs": 120,
            "optimizer.milestones": [80, 100],
            "method.meta.weight_map": "mean",
            "method.weight_net.optimizer": "adam",
            "method.weight_net.lr": 1e-3,
            "method.weight_net.weight_decay": 1e-4,
        },
    )


def official_lt() -> Experiment:
    """The long-tail program: ResNet-32, factor 100, 100 epochs, SGD 1e-5 for the weight net, gradient through its loss.

    The real rate drops after 79 and 89 epochs there (it counts from one), the virtual one an epoch later; here both
    drop with the real one. It keeps the short last batch, at full step size; here it is dropped.
    """
    return override(
        noise.cifar10_longtail(),
        {
            "optimizer.milestones": [79, 89],
            "optimizer.nesterov": True,
            "method.weight_net.lr": 1e-5,
            "method.meta.input": "through",
        },
    )
