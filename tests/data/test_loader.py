"""Batches against a slow reference that crops and mirrors one image at a time."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mwray.config import ConfigError
from mwray.data.loader import Batch, Loader, _draw, _has_room, at_once
from mwray.data.splits import Splits, Subset
from mwray.seeding import rng

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def _splits(count: int, height: int = 12, width: int = 10, augmentable: bool = True) -> Splits:
    images = torch.randint(256, (count, 3, height, width), generator=rng(0, "pixels")).to(torch.uint8)
    true = torch.arange(count) % 10
    subset = Subset(images=images, observed=(true + 1) % 10, true=true, index=torch.arange(count))
    return Splits(
        train=subset,
        meta=subset,
        validation=subset,
        test=subset,
        class_names=tuple("abcdefghij"),
        mean=MEAN,
        std=STD,
        transition=torch.eye(10, dtype=torch.float64),
        augmentable=augmentable,
    )


def _loader(
    count: int,
    *,
    augment: bool = True,
    augmentable: bool = True,
    device: torch.device = CPU,
    size: tuple[int, int] = (12, 10),
) -> Loader:
    splits = _splits(count, *size, augmentable=augmentable)
    return Loader(splits.train, splits, device, augment)


def _normalise(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (MEAN, STD))
    return ((pixels.double() / 255 - mean) / std).float()


def _reference(image: Tensor, down: int, right: int, mirror: bool, padding: int = 4) -> Tensor:
    _, height, width = image.shape
    padded = F.pad(image[None].double(), (padding,) * 4, mode="reflect")[0]
    crop = padded[:, down : down + height, right : right + width]
    return _normalise(crop.flip(2) if mirror else crop)


def _same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and torch.equal(a.index, b.index)


def test_augmented_batches_equal_the_reference_image_by_image() -> None:
    loader = _loader(40)
    draws = rng(1, "augmentation")
    for batch in loader.epoch(20, rng(1, "order"), rng(1, "augmentation")):
        down, right, mirror = _draw(20, draws, CPU)
        for place, position in enumerate(batch.index.tolist()):
            image = loader.images[position]
            expected = _reference(image, int(down[place]), int(right[place]), bool(mirror[place]))
            torch.testing.assert_close(batch.x[place], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("size", "padding"), [((224, 300), 28), ((40, 64), 5), ((32, 32), 4), ((39, 90), 4)])
def test_a_crop_moves_an_eighth_of_the_shorter_side(size: tuple[int, int], padding: int) -> None:
    loader, draws = _loader(10, size=size), rng(1, "augmentation")
    batch = next(loader.epoch(10, rng(1, "order"), rng(1, "augmentation")))
    down, right = torch.randint(2 * padding + 1, (2, 10), generator=draws)
    mirror = torch.randint(2, (1, 10), generator=draws)[0]
    for place, position in enumerate(batch.index.tolist()):
        drawn = int(down[place]), int(right[place]), bool(mirror[place])
        expected = _reference(loader.images[position], *drawn, padding)
        torch.testing.assert_close(batch.x[place], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("augment", [True, False])
def test_images_that_stay_on_the_host_come_in_the_same_batches(augment: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    held = _loader(40, augment=augment)
    monkeypatch.setattr("mwray.data.loader._has_room", lambda device, images: False)
    brought = _loader(40, augment=augment)
    assert held.on_device and not brought.on_device
    for one, other in zip(*(each.epoch(20, rng(0, "o"), rng(0, "c")) for each in (held, brought)), strict=True):
        assert _same(one, other)
    for one, other in zip(held.in_order(30), brought.in_order(30), strict=True):
        assert _same(one, other)


def test_a_set_that_takes_more_than_half_of_a_gpu_stays_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.zeros(10, 3, 10, 10, dtype=torch.uint8)
    for free, room in ((6000, True), (5999, False)):
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda device, free=free: (free, 10**9))
        assert _has_room(torch.device("cuda"), images) is room
        assert _has_room(CPU, images)


def test_an_evaluation_takes_fewer_of_larger_images() -> None:
    shapes = ((5,), (1, 8, 8), (3, 64, 64), (3, 128, 128), (3, 224, 224), (3, 4000, 4000))
    assert [at_once(shape) for shape in shapes] == [1000, 1000, 1000, 250, 81, 1]


def test_offsets_and_mirrors_are_uniform_and_independent() -> None:
    count = 81 * 2 * 400
    down, right, mirror = _draw(count, rng(0), CPU)
    cells = torch.bincount((down * 9 + right) * 2 + mirror, minlength=162).double()
    assert len(cells) == 162
    statistic = ((cells - 400) ** 2 / 400).sum().item()
    assert 80 < statistic < 260  # chi-square with 161 degrees of freedom, deviation 18: beyond 4.5 of them either way


def test_an_epoch_shows_every_image_once_but_the_short_last_batch() -> None:
    loader = _loader(47)
    batches = list(loader.epoch(10, rng(0, "order"), rng(0, "crop")))
    index = torch.cat([batch.index for batch in batches])
    assert len(batches) == loader.steps(10) == 4
    assert len(index.unique()) == 40
    assert loader.dropped(10) == 7
    assert not torch.equal(index, index.sort().values)
    assert all(torch.equal(batch.y, loader.observed[batch.index]) for batch in batches)
    assert all(batch.x.dtype == torch.float32 and batch.x.shape == (10, 3, 12, 10) for batch in batches)


def test_the_generators_decide_what_is_seen() -> None:
    loader = _loader(40)
    first, again = (next(loader.epoch(20, rng(0, "order"), rng(0, "crop"))) for _ in range(2))
    other_order = next(loader.epoch(20, rng(1, "order"), rng(0, "crop")))
    other_crop = next(loader.epoch(20, rng(0, "order"), rng(1, "crop")))
    assert _same(first, again)
    assert not torch.equal(first.index, other_order.index)
    assert torch.equal(first.index, other_crop.index)
    assert not torch.equal(first.x, other_crop.x)


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize("endless", [False, True])
def test_workers_together_see_what_one_process_sees(size: int, endless: bool) -> None:
    loader = _loader(40)

    def batches(rank: int, size: int) -> list[Batch]:
        draw = loader.cycle if endless else loader.epoch
        return list(islice(draw(12, rng(0, "order"), rng(0, "crop"), rank, size), 7))

    whole = batches(0, 1)
    shares = [batches(rank, size) for rank in range(size)]
    assert len(whole) == (7 if endless else 3)
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        joined = Batch(*(torch.cat([getattr(part, name) for part in parts]) for name in ("x", "y", "index")))
        assert _same(batch, joined)


def test_a_cycle_reshuffles_at_each_pass_and_does_not_end() -> None:
    loader = _loader(30)
    batches = list(islice(loader.cycle(10, rng(0, "order"), rng(0, "crop")), 9))
    passes = [torch.cat([batch.index for batch in batches[k : k + 3]]) for k in (0, 3, 6)]
    assert all(len(index.unique()) == 30 for index in passes)
    assert not torch.equal(passes[0], passes[1])


def test_a_small_meta_set_is_used_whole_in_every_step() -> None:
    loader = _loader(7)
    batches = list(islice(loader.cycle(100, rng(0, "order"), rng(0, "crop")), 3))
    assert all(len(batch.index.unique()) == 7 for batch in batches)
    assert not torch.equal(batches[0].index, batches[1].index)


def test_evaluation_sees_all_images_in_order_and_unchanged() -> None:
    loader = _loader(47)
    batches = list(loader.in_order(20))
    assert [len(batch.y) for batch in batches] == [20, 20, 7]
    assert torch.equal(torch.cat([batch.index for batch in batches]), torch.arange(47))
    torch.testing.assert_close(torch.cat([batch.x for batch in batches]), _normalise(loader.images), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("augment", "augmentable"), [(False, True), (True, False)])
def test_images_are_left_alone_where_asked_or_where_they_would_lose_their_meaning(
    augment: bool, augmentable: bool
) -> None:
    loader = _loader(20, augment=augment, augmentable=augmentable)
    batch = next(loader.epoch(20, rng(0, "order"), rng(0, "crop")))
    torch.testing.assert_close(batch.x, _normalise(loader.images[batch.index]), rtol=0, atol=2e-6)


def test_sizes_that_cannot_work_name_the_field_and_the_numbers() -> None:
    loader = _loader(7)
    order, crop = rng(0), rng(0)
    with pytest.raises(ConfigError, match=r"^batch_size: .*10 samples .* 7 training samples"):
        loader.epoch(10, order, crop)
    with pytest.raises(ConfigError, match=r"^batch_size: 5 samples .* 2 workers; 4 would do"):
        loader.epoch(5, order, crop, 0, 2)
    with pytest.raises(ConfigError, match=r"^meta_batch_size: 5 samples .* 2 workers"):
        loader.cycle(5, order, crop, 0, 2)
    with pytest.raises(ConfigError, match=r"^data\.num_meta: 7 samples .* 2 workers; 6 would do"):
        loader.cycle(100, order, crop, 0, 2)
    with pytest.raises(ConfigError, match=r"^data\.num_meta: the meta set is empty"):
        _loader(0).cycle(10, order, crop)


@pytest.mark.gpu
def test_batches_never_wait_for_the_device() -> None:
    device = torch.device("cuda")
    loader = _loader(100, device=device)
    batches = loader.epoch(10, rng(0, "order"), rng(0, "crop", device=device))
    first = next(batches)  # copies the order of this pass
    torch.cuda.set_sync_debug_mode("error")
    try:
        rest = list(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(rest) == 9
    assert first.x.device.type == "cuda"
    on_cpu = next(_loader(100).epoch(10, rng(0, "order"), rng(0, "crop")))
    assert torch.equal(first.index.cpu(), on_cpu.index)
