"""Networks that nobody wrote with a tangent pass in mind: a classifier of each of torchvision's families."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models

from mwray.meta import tangent
from mwray.meta.duality import defect
from mwray.meta.forward_mode import ForwardMode
from mwray.meta.tangent import Linearized, record

pytestmark = pytest.mark.slow

FOLLOWED = [
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnet50", "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11_bn", "vit_b_16",
    "wide_resnet50_2",
]  # fmt: skip
OPTIONS = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}
SIZES = {"inception_v3": 96, "maxvit_t": 224, "vit_b_16": 224}


def found(name: str) -> tuple[nn.Module, type, float]:
    """The model, how its forward was recorded, and the defect of its tangent in float32."""
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, num_classes=10, **OPTIONS.get(name, {})).train()
    size = SIZES.get(name, 64)
    recording = record(model, torch.randn(2, 3, size, size))
    parameters = dict(model.named_parameters())
    direction = {key: torch.randn_like(p) * max(float(p.detach().abs().mean()), 0.01) for key, p in parameters.items()}
    tangent_ = recording.tangent(direction)
    return model, type(recording), defect(recording.outputs, parameters, direction, tangent_)


@pytest.mark.parametrize("name", FOLLOWED)
def test_the_tape_follows(name):
    model, kind, size = found(name)
    assert kind is Linearized and model not in tangent._failures
    assert size < 1e-4


def test_what_writes_into_a_part_of_a_tensor_falls_to_dual_numbers():
    """Swin's second version sets a third of a bias to zero in its forward."""
    model, _, size = found("swin_v2_t")
    assert tangent._failures[model] is ForwardMode
    assert size < 1e-4
