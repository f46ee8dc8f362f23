"""Networks: sizes as published, plain modules that torch.fx can trace, and the few facts that set them apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mwray.config import ConfigError
from mwray.data import sources
from mwray.data.loader import Loader
from mwray.data.settings import Data
from mwray.data.splits import split
from mwray.models.registry import MODELS, build
from mwray.models.resnet_cifar import BasicBlock, ResNet
from mwray.models.settings import Model
from mwray.models.small import SmallConvNet
from mwray.models.wide_resnet import PreActBlock, WideResNet
from mwray.seeding import rng

CIFAR = (3, 32, 32)
QUICK = [name for name in MODELS if name != "wrn28-10"]


def _count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(
    ("name", "num_classes", "parameters"),
    [
        ("resnet20", 10, 269_722),  # He et al., Table 6: 0.27 M
        ("resnet32", 10, 464_154),
        ("resnet32", 100, 470_004),
        ("resnet56", 10, 853_018),  # He et al., Table 6: 0.85 M
        ("wrn16-4", 10, 2_748_890),  # Zagoruyko and Komodakis: 2.7 M
        ("wrn28-10", 10, 36_479_194),  # the same: 36.5 M
        ("wrn28-10", 100, 36_536_884),
    ],
)
def test_parameters_are_as_many_as_published(name: str, num_classes: int, parameters: int) -> None:
    with torch.device("meta"):
        assert _count(build(Model(name=name), num_classes, CIFAR)) == parameters


def test_small_networks_are_small() -> None:
    assert _count(SmallConvNet(10, (1, 8, 8))) == 24_058
    assert _count(build(Model(name="mlp"), 10, (1, 8, 8))) == 64 * 128 + 128 + 128 * 10 + 10
    assert _count(build(Model(name="linear"), 10, (1, 8, 8))) == 64 * 10 + 10


@pytest.mark.parametrize("name", ["mlp", "linear"])
def test_vectors_are_taken_as_images_of_as_many_pixels_are(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        of_vectors = build(Model(name=name), 5, (64,))
        torch.manual_seed(0)
        of_images = build(Model(name=name), 5, (1, 8, 8))
    x = torch.randn(3, 64, generator=rng(0))
    assert of_vectors.training and torch.equal(of_vectors(x), of_images(x.view(3, 1, 8, 8)))


SIZES = [(name, (1, 8, 8)) for name in QUICK if name != "cnn9"]  # which refuses them: tests/models/test_cnn9.py
SIZES += [(name, shape) for name in QUICK for shape in ((1, 28, 28), CIFAR)]


@pytest.mark.parametrize(("name", "shape"), SIZES)
def test_every_network_takes_every_image_and_can_be_traced(name: str, shape: tuple[int, int, int]) -> None:
    net = build(Model(name=name), 7, shape).eval()
    x = torch.randn(2, *shape, generator=rng(0))
    logits = net(x)
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()
    assert torch.equal(torch.fx.symbolic_trace(net)(x), logits)


def test_wrn_28_10_can_be_traced() -> None:
    with torch.device("meta"):
        net = build(Model(name="wrn28-10"), 10, CIFAR)
        assert torch.fx.symbolic_trace(net)(torch.empty(2, *CIFAR)).shape == (2, 10)


@pytest.mark.parametrize("name", QUICK)
def test_the_global_generator_decides_the_initial_weights(name: str) -> None:
    def parameters(seed: int) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.utils.parameters_to_vector(build(Model(name=name), 10, CIFAR).parameters())

    assert torch.equal(parameters(0), parameters(0))
    assert not torch.equal(parameters(0), parameters(1))


@pytest.mark.parametrize("name", QUICK)
def test_no_activation_works_in_place(name: str) -> None:
    net = build(Model(name=name), 10, CIFAR)
    assert not any(getattr(module, "inplace", False) for module in net.modules())


def test_option_a_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides() -> None:
    block = BasicBlock(16, 32, 2).eval()
    nn.init.zeros_(block.bn2.weight)  # silences the residual branch
    x = torch.randn(2, 16, 8, 8, generator=rng(0))
    out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2].relu())
    assert not out[:, :8].any()
    assert not out[:, 24:].any()
    assert sum(name.startswith("shortcut") for name, _ in block.named_parameters()) == 0


def test_resnet_is_the_network_of_the_paper() -> None:
    net = ResNet(8, 10, CIFAR).eval()
    state = net.state_dict()

    def conv_bn(x: Tensor, prefix: str, number: int, stride: int = 1) -> Tensor:
        x = F.conv2d(x, state[f"{prefix}conv{number}.weight"], stride=stride, padding=1)
        scale = state[f"{prefix}bn{number}.weight"] / (1 + 1e-5) ** 0.5  # fresh statistics: mean 0, variance 1
        return x * scale[:, None, None] + state[f"{prefix}bn{number}.bias"][:, None, None]

    x = torch.randn(2, *CIFAR, generator=rng(0))
    h = conv_bn(x, "", 1).relu()
    for stage, (channels, stride) in enumerate([(16, 1), (32, 2), (64, 2)], 1):
        prefix = f"stage{stage}.0."
        extra = (channels - h.shape[1]) // 2
        shortcut = F.pad(h[:, :, ::stride, ::stride], (0, 0, 0, 0, extra, extra))
        h = (conv_bn(conv_bn(h, prefix, 1, stride).relu(), prefix, 2) + shortcut).relu()
    expected = h.mean((2, 3)) @ state["linear.weight"].T + state["linear.bias"]
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


def test_resnet_weights_are_drawn_with_fan_in() -> None:
    net = ResNet(20, 100, CIFAR)
    conv = net.stage3[0].conv1.weight  # type: ignore[union-attr]
    assert isinstance(conv, Tensor)
    assert conv.std().item() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.03)
    assert net.linear.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.05)


def test_wide_resnet_activates_before_its_shortcut_only_where_widths_differ() -> None:
    x = torch.randn(2, 16, 8, 8, generator=rng(0))
    wider, same = PreActBlock(16, 32, 2).eval(), PreActBlock(16, 16, 1).eval()
    for block in (wider, same):
        nn.init.zeros_(block.conv2.weight)  # silences the residual branch
    assert wider.shortcut is not None
    active = wider.bn1(x).relu()
    torch.testing.assert_close(wider(x), F.conv2d(active, wider.shortcut.weight, stride=2))
    assert torch.equal(same(x), x)


def test_wide_resnet_weights_are_drawn_with_fan_out() -> None:
    net = WideResNet(10, 4, 10, CIFAR)
    assert net.conv.weight.std().item() == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.15)
    wide = net.group3[0].conv1.weight  # type: ignore[union-attr]
    assert isinstance(wide, Tensor)
    assert wide.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)
    assert not net.linear.bias.any()


@pytest.mark.parametrize("depth", [2, 7, 9, 33])
def test_depths_that_do_not_exist_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="6n \\+ 2"):
        ResNet(depth, 10, CIFAR)
    with pytest.raises(ValueError, match="6n \\+ 4"):
        WideResNet(depth, 1, 10, CIFAR)


def test_small_network_learns_digits() -> None:
    splits = split(Data(num_meta=0), 0, sources.load("digits"))
    cpu = torch.device("cpu")
    train, test = Loader(splits.train, splits, cpu, True), Loader(splits.test, splits, cpu, False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build(Model(name="small"), 10, splits.shape)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    for epoch in range(20):
        for batch in train.epoch(100, rng(0, "order", epoch), rng(0, "crop", epoch)):
            optimizer.zero_grad()
            F.cross_entropy(net(batch.x), batch.y).backward()
            optimizer.step()
    net.eval()
    right = sum(int((net(batch.x).argmax(1) == batch.y).sum()) for batch in test.in_order(250))
    assert right / 500 > 0.97  # 0.99 when written


# --- names ------------------------------------------------------------------------------------------------------------

OWN = """
import torch
def good(num_classes, shape):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(shape[0] * shape[1] * shape[2], num_classes))
def narrow(num_classes):
    return torch.nn.Identity()
def wrong(num_classes, shape):
    return "a network"
def of_vectors(num_classes, shape):
    (features,) = shape
    layers = torch.nn.Linear(features, 9), torch.nn.BatchNorm1d(9), torch.nn.Dropout(), torch.nn.Linear(9, num_classes)
    return torch.nn.Sequential(*layers)
def one_too_many(num_classes, shape):
    return torch.nn.Linear(shape[0], num_classes + 1)
number = 3
"""


@pytest.fixture
def own_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("own_networks")
def test_a_network_of_ones_own_is_named_by_its_import_path() -> None:
    assert build(Model(name="own_networks:good"), 5, (1, 8, 8))(torch.zeros(2, 1, 8, 8)).shape == (2, 5)


@pytest.mark.usefixtures("own_networks")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet23", r"no network 'resnet23'\. Did you mean 'resnet\d+'\? Known: small,.*package\.module:factory"),
        ("resnet18", r"no network 'resnet18'\. Did you mean 'torchvision:resnet18'\?"),
        ("torchvison:resnet18", r"'torchvison' .* cannot be imported .* Did you mean 'torchvision:resnet18'\?$"),
        ("", r"no network ''"),
        ("no_such_module:net", r"'no_such_module' .* cannot be imported .*PYTHONPATH\.$"),
        (":net", r"'' of ':net' cannot be imported"),
        ("own_networks:none", r"'own_networks' has no function or class 'none'"),
        ("own_networks:number", r"'own_networks' has no function or class 'number'"),
        ("own_networks:", r"has no function or class ''"),
        ("own_networks:narrow", r"cannot be called as factory\(num_classes, shape\): .*narrow"),
        ("own_networks:wrong", r"must return a torch\.nn\.Module, and returned str"),
    ],
)
def test_wrong_names_get_one_clear_error(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"^model\.name: .*" + message):
        build(Model(name=name), 5, (1, 8, 8))


NO_IMAGES = [*(name for name in MODELS if name not in ("mlp", "linear")), "torchvision:resnet18"]


@pytest.mark.usefixtures("own_networks")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, r": it is a network of images") for name in NO_IMAGES),
        ("own_networks:good", r"IndexError: tuple index out of range"),
        ("own_networks:one_too_many", r"ValueError: of 2 vectors it gave \[2, 6\], not \[2, 5\]"),
    ],
)
def test_networks_of_images_say_that_they_take_no_vectors(name: str, message: str) -> None:
    refused = rf"^model\.name: '{name}' does not take .* \[N, 30\].*{message}.*"
    with pytest.raises(ConfigError, match=refused + r"'linear', 'mlp', or a factory .* for shape \(30,\) would do$"):
        build(Model(name=name), 5, (30,))


@pytest.mark.usefixtures("own_networks")
def test_a_network_of_ones_own_for_vectors_is_tried_without_a_trace() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(Model(name="own_networks:of_vectors"), 5, (30,))
        drawn = torch.rand(1)
        torch.manual_seed(0)
        nn.Linear(30, 9), nn.Linear(9, 5)
        assert torch.equal(torch.rand(1), drawn)
    assert network.training and int(network[1].num_batches_tracked) == 0 and not network[1].running_mean.any()
