"""Weights learned elsewhere: which files are read, what must fit, and which layer starts fresh."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mwray.config import ConfigError
from mwray.models import libraries, weights
from mwray.models.registry import build
from mwray.models.settings import Model

COLOUR = (3, 32, 32)
State = dict[str, Tensor]


def network(classes: int, name: str = "resnet8", shape: tuple[int, int, int] = COLOUR, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(Model(name=name), classes, shape)


def same(a: State, b: State, but: str = "none") -> bool:
    return all(torch.equal(value, b[key]) for key, value in a.items() if not key.startswith(but))


def test_equal_classes_take_everything() -> None:
    ours, theirs = network(10, seed=0), network(10, seed=1).state_dict()
    said = weights.put(ours, theirs, 10, "there")
    assert said == f"model.weights: all {len(theirs)} tensors are those of there"
    assert same(ours.state_dict(), theirs)


@pytest.mark.parametrize(
    ("name", "last"),
    [("resnet8", "linear"), ("torchvision:resnet18", "fc"), ("torchvision:squeezenet1_1", "classifier.1")],
)
def test_the_last_layer_for_other_classes_starts_fresh(name: str, last: str) -> None:
    ours, theirs = network(7, name, seed=0), network(10, name, seed=1).state_dict()
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    said = weights.put(ours, theirs, 7, "there")
    assert said == f"model.weights: there; the last layer, {last}, starts fresh (7 classes, where there are 10)"
    now = ours.state_dict()
    assert same({key: value for key, value in now.items() if key.startswith(last)}, before)
    assert same(now, theirs, but=last)


def test_without_a_last_layer_it_starts_fresh() -> None:
    theirs = {key: value for key, value in network(10, seed=1).state_dict().items() if "linear" not in key}
    ours = network(10)
    assert "linear, starts fresh (10 classes, where there are none)" in weights.put(ours, theirs, 10, "there")
    assert same(theirs, ours.state_dict())


def test_the_second_of_two_networks_keeps_a_last_layer_of_its_own() -> None:
    ours, theirs = network(10, seed=0), network(10, seed=1).state_dict()
    fresh = ours.state_dict()["linear.weight"].clone()
    assert weights.put(ours, theirs, 10, "there", head=False).endswith("the last layer, linear, starts fresh")
    assert torch.equal(ours.state_dict()["linear.weight"], fresh)
    assert same(ours.state_dict(), theirs, but="linear")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers(prefix: str) -> None:
    ours, theirs = network(10, seed=0), network(10, seed=1).state_dict()
    weights.put(ours, {prefix + key: value for key, value in theirs.items()}, 10, "there")
    assert same(ours.state_dict(), theirs)


def test_a_network_may_itself_have_the_name_of_a_wrapper() -> None:
    ours, theirs = (nn.DataParallel(network(10, seed=seed)) for seed in (0, 1))
    for given in (theirs.state_dict(), nn.DataParallel(theirs).state_dict()):
        weights.put(ours, given, 10, "there")
        assert same(ours.state_dict(), theirs.state_dict())


def test_a_grey_network_takes_the_sum_over_channels() -> None:
    name = "torchvision:resnet18"
    ours, theirs = network(7, name, (1, 32, 32)).eval(), network(7, name, seed=1).eval()
    weights.put(ours, theirs.state_dict(), 7, "there")
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x.expand(2, *COLOUR)), rtol=1e-4, atol=1e-4)


def test_batch_norm_of_before_it_counted_batches() -> None:
    theirs = {key: value for key, value in network(10, seed=1).state_dict().items() if "num_batches" not in key}
    ours = network(10)
    weights.put(ours, theirs, 10, "there")
    assert same(theirs, ours.state_dict())


def _without(*keys: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key not in keys}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("conv1.weight"), r"there does not fit ResNet: missing: conv1\.weight$"),
        (lambda s: s | {"more": torch.ones(1)}, r"unknown to the network: more$"),
        (lambda s: s | {"bn1.weight": torch.ones(3)}, r"of another shape: bn1\.weight \[3\] for \[16\]$"),
        (lambda s: s | {"linear.weight": torch.ones(10, 5)}, r"of another shape: linear\.weight \[10, 5\] for"),
        (lambda s: s | {"linear.weight": torch.ones(9, 5)}, r"of another shape: linear\.weight \[9, 5\] for"),
        (_without("linear.bias"), r"missing: linear\.bias$"),
        (
            lambda s: {f"x.{k}": v for k, v in s.items()},
            r": missing: \S+, \S+, \S+ and \d+ more; unknown .*: x\.",
        ),
    ],
)
def test_what_does_not_fit_is_listed(change: Callable[[State], State], message: str) -> None:
    ours = network(10)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    with pytest.raises(ConfigError, match=r"^model\.weights: .*" + message):
        weights.put(ours, change(network(10, seed=1).state_dict()), 10, "there")
    assert same(ours.state_dict(), before)  # nothing is put by halves


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_torchs_files(tmp_path: Path, wrapper: str | None) -> None:
    state = network(10).state_dict()
    torch.save(state if wrapper is None else {wrapper: state, "epoch": 3}, tmp_path / "w.pth")
    assert same(state, weights.read(tmp_path / "w.pth"))


def test_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = pytest.importorskip("safetensors.torch").save_file
    state = network(10).state_dict()
    save(state, tmp_path / "w.safetensors")
    assert same(state, weights.read(tmp_path / "w.safetensors"))
    (tmp_path / "w.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"^model\.weights: .*w\.safetensors cannot be read"):
        weights.read(tmp_path / "w.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(ConfigError, match=r"needs safetensors, which is not installed here: pip install safetensors$"):
        weights.read(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("w.ckpt", lambda path: path.write_bytes(b""), r"w\.ckpt is no \.pt or \.pth or \.safetensors file"),
        ("w.pt", lambda path: path.write_bytes(b"damaged"), r"w\.pt cannot be read"),
        (
            "w.pt",
            lambda path: torch.save(nn.Linear(2, 2), path),
            r"w\.pt cannot be read .it holds more than tensors.*save the network's state",
        ),
        ("w.pt", lambda path: torch.save([torch.ones(1)], path), r"w\.pt holds no state dict but list"),
        ("w.pt", lambda path: torch.save({"epoch": 1}, path), r"w\.pt holds no state dict but dict"),
    ],
)
def test_files_that_hold_none(tmp_path: Path, name: str, write: Callable[[Path], Any], message: str) -> None:
    write(tmp_path / name)
    with pytest.raises(ConfigError, match=r"^model\.weights: .*" + message) as told:
        weights.read(tmp_path / name)
    assert "\n" not in str(told.value)


def test_old_names_of_torchvisions_densenet() -> None:
    old = "features.denseblock1.denselayer2"
    state = {
        f"{old}.norm.1.weight": torch.ones(1),
        f"{old}.conv.2.weight": torch.ones(2),
        "aux1.fc1.bias": torch.ones(3),
    }
    assert set(libraries.modern(state)) == {f"{old}.norm1.weight", f"{old}.conv2.weight"}
