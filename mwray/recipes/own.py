"""Data of one's own, whose labels are wrong already: no bias is put into them."""

from __future__ import annotations

from mwray.config import override
from mwray.experiment import Experiment
from mwray.recipes import digits


def own() -> Experiment:
    """Your own data as they are: pictures in data/own, or `--set data.source=package.module:function`.

    A small network and the lengths of `digits`: a start, to be changed with `--set` and searched around. Photographs
    want the recipe `pictures`, feature vectors `vectors`.
    """
    changes = {
        "data.source": "folder:data/own",
        "data.num_validation": 100,
        "data.bias.noise": "none",
        "data.bias.rate": 0.0,
    }
    return override(digits.uniform(), changes)


def pictures() -> Experiment:
    """Photographs in data/own, of any sizes: a ResNet-50 with ImageNet's weights, fine-tuned at 224x224.

    Rates, decay, batch and length are those of the paper's Clothing1M (section 4.3: 0.01, 1e-3, 32, 10 epochs, a tenth
    of the rate after 5; the weight net's rate 1e-3). Those data are given on request only: Table 4 is not repeated.
    There the pictures are resized to 256 and cropped to 224; here `data.image_size` resizes to 224, and crops come from
    reflected borders.
    """
    changes = {
        "data.image_size": 224,
        "model.name": "torchvision:resnet50",
        "model.weights": "pretrained",
        "optimizer.lr": 0.01,
        "optimizer.weight_decay": 1e-3,
        "optimizer.milestones": [5],
        "method.weight_net.lr": 1e-3,
        "epochs": 10,
        "batch_size": 32,
        "meta_batch_size": 32,
    }
    return override(own(), changes)


def vectors() -> Experiment:
    """Embeddings or the rows of a table: `--set data.source=package.module:function` (docs/data.md).

    A linear network on all features, and a tenth of `own`'s rate: each of D features has deviation 1, and a step of
    a linear layer moves its logits by D times as much. At `own`'s rate wrong labels are learned by heart, and of
    thousands of features nothing else (RESULTS.md).
    """
    return override(own(), {"data.source": "my_data:load", "model.name": "linear", "optimizer.lr": 0.01})
