"""Co-teaching's nine-layer network."""

from __future__ import annotations

import pytest
import torch

from mwray.config import ConfigError
from mwray.models.registry import build
from mwray.models.settings import Model


def test_it_has_the_published_layers():
    network = build(Model(name="cnn9"), 10, (3, 32, 32))
    shapes = [tuple(p.shape) for p in network.parameters() if p.ndim == 4]
    channels = [3, 128, 128, 128, 256, 256, 256, 512, 256, 128]
    assert shapes == [(b, a, 3, 3) for a, b in zip(channels, channels[1:], strict=False)]
    # Convolutions with biases, two numbers a channel for batch norm, and the linear layer.
    expected = sum(9 * a * b + 3 * b for a, b in zip(channels, channels[1:], strict=False)) + 129 * 10
    assert sum(p.numel() for p in network.parameters()) == expected == 4_434_570


@pytest.mark.parametrize(("size", "before_pooling"), [(32, 2), (28, 1)])
def test_the_last_three_convolutions_shrink_the_image(size, before_pooling):
    network = build(Model(name="cnn9"), 10, (1, size, size)).eval()
    seen = []
    network.features[-1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    with torch.no_grad():
        assert network(torch.zeros(2, 1, size, size)).shape == (2, 10)
    assert seen == [(2, 128, before_pooling, before_pooling)]


def test_small_images_are_refused_with_a_way_out():
    with pytest.raises((ValueError, ConfigError), match="'cnn9' needs images of at least 28x28 .* 8x8; use 'small'"):
        build(Model(name="cnn9"), 10, (1, 8, 8))
