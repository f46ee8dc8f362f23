"""Networks of torchvision and timm: their classes and channels, what they refuse, and their published weights."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from mwray.config import ConfigError
from mwray.models import libraries
from mwray.models.registry import build
from mwray.models.settings import Model
from mwray.seeding import rng

MODELS = torchvision.models
NAMES = MODELS.list_models(module=MODELS)
ON_META = [name for name in NAMES if not name.startswith("regnet")]  # which read their sizes from tensors while built
FAMILIES = ["alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t"]
FAMILIES += [
    "mnasnet0_5",
    "mobilenet_v2",
    "resnet18",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "vgg11",
    "vit_b_32",
]
REST = [pytest.param(name, marks=pytest.mark.slow) for name in ON_META if name not in FAMILIES]
GREY, COLOUR = (1, 32, 32), (3, 32, 32)


def _build(name: str, shape: tuple[int, int, int] = COLOUR, classes: int = 7) -> nn.Module:
    return build(Model(name=name), classes, shape)


@pytest.mark.parametrize("name", [*FAMILIES, *REST])
def test_every_classifier_of_torchvision_gives_one_tensor(name: str) -> None:
    with torch.device("meta"):  # `build` itself follows the shapes of a batch in training mode
        network = _build(f"torchvision:{name}", (3, 224, 224))
    assert isinstance(network, nn.Module)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:regnet_x_400mf"])
def test_the_generator_decides_the_initial_weights_and_trying_leaves_no_trace(name: str) -> None:
    def state(seed: int) -> dict[str, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return _build(name).state_dict()

    first, again, other = state(0), state(0), state(1)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not all(torch.equal(value, other[key]) for key, value in first.items())
    running = [value for key, value in first.items() if key.endswith(("running_mean", "num_batches_tracked"))]
    assert not any(value.any() for value in running)


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_grey_images_give_what_three_equal_channels_give(name: str) -> None:
    def built(shape: tuple[int, int, int]) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return _build(f"torchvision:{name}", shape).eval()

    x = torch.randn(2, *GREY, generator=rng(0))
    with torch.no_grad():
        torch.testing.assert_close(built(GREY)(x), built(COLOUR)(x.expand(2, *COLOUR)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "torchvision:resnet19",
            COLOUR,
            r"torchvision has no classifier 'resnet19'\. Did you mean 'torchvision:resnet1",
        ),
        ("torchvision:fcn_resnet50", COLOUR, r"torchvision has no classifier 'fcn_resnet50'"),  # segments
        (
            "torchvision:inception_v3",
            COLOUR,
            r"cannot take images of 32x32 pixels in 3 channel\(s\) \(.* data\.image_size",
        ),
        ("torchvision:alexnet", GREY, r"cannot take images of 32x32 pixels in 1 channel\(s\)"),
        ("torchvision:vit_b_16", (3, 50, 50), r"cannot take images of 50x50 .* indivisible by patch size"),
        ("torchvision:vit_b_16", (3, 32, 48), r"32x48 .*it takes square images"),
        ("torchvision:maxvit_t", COLOUR, r"not divisible by partition size"),
        ("resnet19", COLOUR, r"Did you mean 'resnet\d+'\? .*'torchvision:NAME'"),
    ],
)
def test_what_cannot_be_built_is_told_in_one_line(name: str, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ConfigError, match=r"^model\.name: .*" + message) as told:
        _build(name, shape)
    assert "\n" not in str(told.value)


class Two(nn.Linear):
    """Gives its logits twice."""

    def forward(self, x: Tensor) -> Any:
        y = super().forward(x.flatten(1))
        return y, y


def test_several_outputs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Two gives tuple for 2 images; needed: one tensor \[2, 7\]"):
        libraries.check_takes(Two(3 * 32 * 32, 7), 7, COLOUR)


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"^model\.name: 'timm:resnet18' needs timm, .* pip install timm$"):
        _build("timm:resnet18")


def test_statistics_are_those_of_the_weights() -> None:
    assert libraries.statistics("torchvision:resnet50") == libraries.IMAGENET
    assert libraries.statistics("torchvision:efficientnet_v2_l") == libraries.HALVES
    assert libraries.statistics("resnet32") is None and libraries.statistics("package.module:factory") is None


def test_a_network_that_transforms_its_input_is_given_that_at_once() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = MODELS.googlenet(num_classes=7, transform_input=True, aux_logits=False, init_weights=False).eval()
    ours = _build("torchvision:googlenet", (3, 64, 64)).eval()
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.rand(2, 3, 64, 64, generator=rng(0))
    (mean, std), (half, by) = (
        [torch.tensor(values)[:, None, None] for values in statistics]
        for statistics in (libraries.IMAGENET, libraries.statistics("torchvision:googlenet") or ())
    )
    with torch.no_grad():
        torch.testing.assert_close(ours((pixels - half) / by), theirs((pixels - mean) / std), rtol=1e-4, atol=1e-5)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError("Name or service not known")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fail)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)


def test_weights_that_cannot_be_downloaded_are_told_in_one_line(offline: None) -> None:
    with pytest.raises(
        ConfigError, match=r"^model\.weights: the 'pretrained' weights of 'torchvision:resnet18' "
    ) as told:
        libraries.published("torchvision:resnet18")
    said = str(told.value)
    assert "Name or service not known" in said and "resnet18-f37072fd.pth into " in said and "\n" not in said


@pytest.mark.parametrize("name", ["squeezenet1_1", "densenet121", "googlenet"])
def test_published_weights_by_todays_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a download that is made up: the file's old names and auxiliary heads are of no concern to whoever asks."""
    model = MODELS.get_model(name, **({"init_weights": False} if name == "googlenet" else {}))
    file = {  # as DenseNet's files have them: norm1 as norm.1
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): value
        for key, value in model.state_dict().items()
        if name != "densenet121" or not key.endswith("num_batches_tracked")
    }
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *a, **k: dict(file))
    published = libraries.modern(libraries.published(f"torchvision:{name}"))
    ours = _build(f"torchvision:{name}", (3, 64, 64), 1000).state_dict()
    assert published.keys() == ours.keys()
    counters = {key for key in ours if key.endswith("num_batches_tracked")}
    assert libraries.modern(file).keys() == ours.keys() - (counters if name == "densenet121" else set())
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in published.items())


class TestTimm:
    """Networks of timm, where it is installed."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("timm")

    @pytest.mark.parametrize(
        ("name", "shape"),
        [
            ("resnet18", GREY),
            ("resnet18.a1_in1k", COLOUR),
            ("vit_tiny_patch16_224", (3, 64, 64)),
            ("regnetx_002", GREY),
        ],
    )
    def test_it_has_the_classes_and_channels_of_the_data(self, name: str, shape: tuple[int, int, int]) -> None:
        assert _build(f"timm:{name}", shape).eval()(torch.zeros(2, *shape)).shape == (2, 7)

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("rasnet18", r"timm has no classifier 'rasnet18'\. Did you mean 'timm:resnet18'\?"),
            ("resnet18.zz", r"timm has no weights 'resnet18\.zz'"),
            ("inception_v3", r"cannot take images of 32x32 pixels"),
        ],
    )
    def test_what_cannot_be_built(self, name: str, message: str) -> None:
        with pytest.raises(ConfigError, match=r"^model\.name: .*" + message):
            _build(f"timm:{name}")

    def test_published_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import timm

        asked = []
        model = SimpleNamespace(state_dict=lambda: {"fc.bias": torch.ones(1000)})
        monkeypatch.setattr(timm, "create_model", lambda name, **options: asked.append((name, options)) or model)
        assert libraries.published("timm:resnet18")["fc.bias"].sum() == 1000
        assert asked == [("resnet18", {"pretrained": True})]
        assert libraries.statistics("timm:vit_tiny_patch16_224") == libraries.HALVES

    @pytest.mark.parametrize("ask", [libraries.statistics, libraries.published])
    def test_what_is_not_there_is_named_when_it_is_asked_for(self, ask: Callable[[str], object]) -> None:
        with pytest.raises(ConfigError, match=r"^model\.name: timm has no weights 'resnet18\.zz'; known: resnet18\."):
            ask("timm:resnet18.zz")
        with pytest.raises(ConfigError, match=r"^model\.name: timm has no classifier 'rasnet18'"):
            ask("timm:rasnet18")

    def test_a_network_without_published_weights(self) -> None:
        with pytest.raises(ConfigError, match=r"^model\.weights: timm publishes no weights for 'coatnet_0_224'; leave"):
            libraries.published("timm:coatnet_0_224")
