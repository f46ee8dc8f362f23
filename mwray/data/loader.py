"""Batches: images stay uint8 on the training device; crop, flip and normalisation run there, a batch at a time.

Feature vectors stay float32 there and are normalised likewise. A set that would take more than half of what a GPU has
free stays in the host's memory, or in its file, and each batch is brought.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mwray.config import ConfigError
from mwray.data.splits import Splits, Subset

PADDING = 4  # pixels reflected at each border of 32x32 before the crop (He et al., 2016, section 4.2, pad with zeros)


def padding_of(height: int, width: int) -> int:
    """Pixels reflected at each border before the crop: 4, and from 40 on an eighth of the shorter side.

    So a crop of a large picture moves as far, for its size, as that of CIFAR; four pixels of 224 would not show.
    """
    return max(PADDING, min(height, width) // 8)


AT_ONCE = 1000
"""Images or vectors that an evaluation takes at a time ..."""
AS_LARGE_AS = 64 * 64
"""... up to so many pixels; of larger ones fewer, in proportion, since their activations are larger."""


def at_once(shape: Sequence[int]) -> int:
    """How many images, or vectors, of `shape` an evaluation takes at a time: 1000, of 224x224 pixels 81."""
    pixels = shape[-2] * shape[-1] if len(shape) == 3 else 1
    return AT_ONCE if pixels <= AS_LARGE_AS else max(1, AT_ONCE * AS_LARGE_AS // pixels)


@dataclass(frozen=True)
class Batch:
    """One mini-batch on the training device."""

    x: Tensor  # float32 [B, C, H, W], augmented and normalised, or [B, D], normalised
    y: Tensor  # int64 [B], observed labels
    index: Tensor  # int64 [B], positions in the training (or meta) set: 0 .. N-1


class Loader:
    """A set of images or feature vectors on the training device, and the batches drawn from it.

    A batch is made in two halves: the draw, which says which images, crops and mirrors (int64 [4, B], or [1, B] without
    augmentation), and `take`, which is device work alone and always the same, so that a CUDA graph can hold it. Nothing
    here waits for the device: one copy of the order per pass, the rest is queued. A set that is not `on_device` is the
    exception: where its images lie has to be known on the host.
    """

    on_device: bool
    """Whether the images lie on the training device."""

    def __init__(
        self,
        subset: Subset,
        splits: Splits,
        device: torch.device,
        augment: bool,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        """Copy `subset` to `device`; `augment` is heeded where the data set allows it (`Splits.augmentable`).

        `layout` is how the images of a batch lie in memory; their values are the same.
        """
        self.device = torch.device(device)
        self.on_device = _has_room(self.device, subset.images)
        images = subset.images.to(device) if self.on_device else subset.images
        self.images = images  # uint8 [N, C, H, W], or float32 [N, D]
        self.observed = subset.observed.to(device)  # int64 [N]
        self.augment = augment and splits.augmentable
        self._layout = layout
        first, second = factors(splits.mean, splits.std, splits.shape)
        self._factors = first.to(device), second.to(device)
        if self.augment:
            channels, height, width = splits.shape
            assert min(height, width) > PADDING, "too small to reflect so many pixels"
            self.padding = padding_of(height, width)
            self._rows = _windows(height, self.padding).to(device)
            self._columns = _windows(width, self.padding).to(device)
            self._channels = torch.arange(channels).to(device)[None, :, None, None]

    def __len__(self) -> int:
        return len(self.observed)

    def steps(self, batch_size: int) -> int:
        """Batches in one pass."""
        return len(self) // batch_size

    def dropped(self, batch_size: int) -> int:
        """Images that a pass leaves out, as the last batch would be short: other ones in every pass."""
        return len(self) % batch_size

    def epoch(
        self, batch_size: int, order: torch.Generator, augmentation: torch.Generator, rank: int = 0, size: int = 1
    ) -> Iterator[Batch]:
        """One shuffled pass over the set, without the short last batch: `draws`, taken.

        Arguments and errors as for `draws`.
        """
        return map(self.take, self.draws(batch_size, order, augmentation, rank, size))

    def draws(
        self, batch_size: int, order: torch.Generator, augmentation: torch.Generator, rank: int = 0, size: int = 1
    ) -> Iterator[Tensor]:
        """What each batch of one shuffled pass is made of, without the short last one.

        Of each batch worker `rank` of `size` gets the rank-th part; all workers must pass generators in equal states,
        and together see exactly the images that a single process sees.

        Args:
            batch_size: images per batch, over all workers.
            order: on the CPU.
            augmentation: on the training device.
            rank: this worker, 0 .. size - 1.
            size: number of workers.

        Raises:
            ConfigError: `batch_size` does not divide by `size`, or exceeds the set.
        """
        check_divides("batch_size", batch_size, size)
        if batch_size > len(self):
            raise ConfigError(
                f"batch_size: a batch of {batch_size} samples cannot be drawn from {len(self)} training samples; at "
                f"most {len(self)} would do"
            )
        return self._pass(batch_size, order, augmentation, rank, size)

    def cycle(
        self, batch_size: int, order: torch.Generator, augmentation: torch.Generator, rank: int = 0, size: int = 1
    ) -> Iterator[Batch]:
        """Batches without end, reshuffled at each pass, for the meta set: `cycle_draws`, taken."""
        return map(self.take, self.cycle_draws(batch_size, order, augmentation, rank, size))

    def cycle_draws(
        self, batch_size: int, order: torch.Generator, augmentation: torch.Generator, rank: int = 0, size: int = 1
    ) -> Iterator[Tensor]:
        """Draws without end, reshuffled at each pass: for the meta set.

        A set smaller than `batch_size` is used whole in every step. Arguments as for `draws`.

        Raises:
            ConfigError: the set is empty, or the batch does not divide by `size`.
        """
        if len(self) == 0:
            raise ConfigError("data.num_meta: the meta set is empty, and this method learns from it; set it above 0")
        check_shares_of_meta(batch_size, len(self), size)
        return self._endless(min(batch_size, len(self)), order, augmentation, rank, size)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All images in order, not augmented, the last batch as short as it comes: for evaluation."""
        for index in torch.arange(len(self), device=self.device).split(batch_size):
            yield Batch(x=self.normalise(self._gathered(index)), y=self.observed[index], index=index)

    def take(self, draw: Tensor) -> Batch:
        """The batch that `draw` says: gathered, cropped, mirrored and normalised on the device."""
        index = draw[0]
        images = self._crop(*draw) if self.augment else self._gathered(index)
        return Batch(x=self.normalise(images), y=self.observed[index], index=index)

    def normalise(self, images: Tensor) -> Tensor:
        """Float32 with mean 0 and deviation 1 per channel or feature over the data set.

        Of images uint8 [B, C, H, W], or of features float32 [B, D].
        """
        return normalised(images, *self._factors, self._layout)

    def _gathered(self, index: Tensor) -> Tensor:
        """The images at `index` [B], on the training device."""
        return self.images[index] if self.on_device else to_device(self.images[index.cpu()], self.device)

    def _endless(
        self, batch_size: int, order: torch.Generator, augmentation: torch.Generator, rank: int, size: int
    ) -> Iterator[Tensor]:
        while True:
            yield from self._pass(batch_size, order, augmentation, rank, size)

    def _pass(
        self, batch_size: int, order: torch.Generator, augmentation: torch.Generator, rank: int, size: int
    ) -> Iterator[Tensor]:
        shuffled = to_device(torch.randperm(len(self), generator=order), self.device)
        share = slice(rank * batch_size // size, (rank + 1) * batch_size // size)
        for step in range(len(self) // batch_size):
            index = shuffled[None, step * batch_size : (step + 1) * batch_size]
            if self.augment:
                index = torch.cat([index, _draw(batch_size, augmentation, self.device, self.padding)])
            yield index[:, share]

    def _crop(self, index: Tensor, down: Tensor, right: Tensor, mirror: Tensor) -> Tensor:
        """Images [B, C, H, W] reflect-padded, cropped at `down` and `right` [B], mirrored where `mirror` [B] is 1."""
        rows = self._rows[down]  # [B, H]
        columns = self._columns[right]  # [B, W]
        columns = torch.where(mirror[:, None].bool(), columns.flip(1), columns)
        images = self.images
        if not self.on_device:
            images, index = self._gathered(index), torch.arange(len(index), device=self.device)
        return images[index[:, None, None, None], self._channels, rows[:, None, :, None], columns[:, None, None, :]]


def factors(mean: Sequence[float], std: Sequence[float], shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What `normalised` needs for images or vectors of `shape`, of the mean and deviation of each channel or feature.

    Of images, (p / 255 - mean) / std as one product and one sum: both float32 [C, 1, 1], `mean` and `std` being of
    pixels in 0..1. Of vectors the two themselves, float64 [D].
    """
    of, by = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
    if len(shape) == 1:
        return of, by
    of, by = of[:, None, None], by[:, None, None]
    return (1 / (255 * by)).float(), (-of / by).float()


def normalised(images: Tensor, first: Tensor, second: Tensor, layout: torch.memory_format) -> Tensor:
    """Float32 images in `layout` from uint8 [B, C, H, W], or vectors from [B, D], and what `factors` gives.

    Vectors are computed in float64 and rounded once, to float32: a mean that is large beside the deviation costs
    nothing, and NumPy gives the same bits.
    """
    if images.dim() == 2:
        return (images.to(torch.float64) - first).div_(second).to(torch.float32)
    return images.to(torch.float32, memory_format=layout).mul_(first).add_(second)


def _has_room(device: torch.device, images: Tensor) -> bool:
    """Whether `images` take at most half of what the device has free: the rest is for networks and activations."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, from trials before
    return images.nbytes <= (free + kept) / 2


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy from the host without waiting: CUDA reads page-locked memory while the host goes on."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _draw(count: int, generator: torch.Generator, device: torch.device, padding: int = PADDING) -> Tensor:
    """Uniform int64 [3, count]: offsets 0 .. 2 padding down and right of each image, and 0 or 1 to mirror it."""
    offsets = torch.randint(2 * padding + 1, (2, count), generator=generator, device=device)
    mirror = torch.randint(2, (1, count), generator=generator, device=device)
    return torch.cat([offsets, mirror])


def _windows(length: int, padding: int) -> Tensor:
    """Row k of [2 padding + 1, length]: positions in an axis that a crop at offset k of the padded axis shows."""
    place = torch.arange(2 * padding + 1)[:, None] + torch.arange(length)[None, :] - padding
    place = place.abs()
    return torch.where(place >= length, 2 * (length - 1) - place, place)


def check_shares_of_meta(batch_size: int, held: int, size: int) -> None:
    """Refuse, with ConfigError, a meta batch that `size` workers cannot share; `held` meta images are there."""
    if held < batch_size:
        check_divides("data.num_meta", held, size)
    else:
        check_divides("meta_batch_size", batch_size, size)


def check_divides(field: str, count: int, size: int) -> None:
    """Refuse, with ConfigError, `count` images in a batch that `size` workers cannot share equally."""
    if count % size:
        raise ConfigError(
            f"{field}: {count} samples cannot be shared equally by {size} workers; "
            f"{max(count // size, 1) * size} would do"
        )
