"""The data a watched run is measured on: kept on the CPU, the same from reading to reading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from copy import copy, deepcopy
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from tightrope.curvature import MicroBatches, mapped, num_examples, rows, tensors
from tightrope.errors import ConfigError, ShapeError

MAX_BATCHES = 256
"""Batches taken from an iterable, or collected; an endless one ends here."""
NUM_NOTED = 64
"""Numbers of each tensor that tell one batch from another."""


class ProbeSet:
    """Batches whose mean loss is measured.

    Args:
        batches: What loss_fn takes, one after the other.
        num_wanted: Examples still to be collected from the batches trained on; 0 if the set is complete.
    Attributes:
        size: Examples in it, or batches where they cannot be counted.
        num_bytes: Of its tensors.
        dtype: That its floating-point tensors are handed out in; None for their own.
    """

    def __init__(self, batches: Iterable[Any] = (), num_wanted: int = 0) -> None:
        self.batches = [_kept(part) for batch in batches for part in _parts(batch)]
        self.num_wanted = num_wanted
        self.dtype: torch.dtype | None = None

    @classmethod
    def of(cls, probe: Any) -> ProbeSet | None:
        """From what `watch` was given: a batch, an iterable of batches, a number of examples, or None for none.

        Raises:
            ConfigError: it holds no example.
        """
        if probe is None:
            return None
        if isinstance(probe, bool | float) or (isinstance(probe, Integral) and int(probe) < 1):
            raise ConfigError(f"watch: probe must hold an example or more; got {probe!r}. Give a batch, or a number.")
        if isinstance(probe, Integral):
            return cls(num_wanted=int(probe))
        found = cls([probe] if is_batch(probe) else _first(probe))
        if not found.batches or found.size == 0:
            raise ConfigError("watch: probe must hold an example or more; got none. Give a batch, or a number.")
        return found

    @property
    def is_complete(self) -> bool:
        return self.num_wanted == 0

    @property
    def size(self) -> int:
        return sum(_count(batch) for batch in self.batches)

    @property
    def num_bytes(self) -> int:
        return sum(x.numel() * x.element_size() for batch in self.batches for x in tensors(batch))

    def collect(self, batch: Any) -> None:
        """Keep examples of a batch that is trained on, until there are as many as were asked for.

        Or until there are no others: the first batch comes again, or `MAX_BATCHES` have come.

        Raises:
            ConfigError: the batch cannot be cut into examples.
        """
        for part in _parts(batch):
            if len(self.batches) == MAX_BATCHES or (self.batches and _is_same(part, self.batches[0])):
                self.num_wanted = 0
            if self.num_wanted:
                n = min(self.num_wanted, self._counted(part))
                self.batches.append(_kept(rows(part, slice(0, n))))
                self.num_wanted -= n

    def part(self, share: float, device: torch.device) -> Any:
        """A batch of about this share of the examples, the first ones of the set, where the model is."""
        wanted, taken = max(1, round(share * self.size)), []
        for batch in self.batches:
            n = _count(batch)
            if wanted >= n:
                taken.append((batch, n))
            elif wanted > 0 and _is_counted(batch):
                taken.append((rows(batch, slice(0, wanted)), wanted))
            wanted -= n
            if wanted <= 0:
                break
        taken = taken or [(self.batches[0], 1)]
        moved = [_moved(batch, device, self.dtype) for batch, _ in taken]
        if len(moved) == 1:
            return moved[0]
        total = sum(n for _, n in taken)
        return MicroBatches(moved, [n / total for _, n in taken])

    @property
    def is_counted(self) -> bool:
        """Whether its size is in examples: those of every batch can be told apart, and cut off."""
        return all(_is_counted(batch) for batch in self.batches)

    def _counted(self, batch: Any) -> int:
        try:
            return num_examples(batch)
        except ShapeError as error:
            raise ConfigError(
                f"watch: probe={self.num_wanted} needs batches whose examples can be counted; got a "
                f"{type(batch).__name__} that is not made of tensors of one length. Give probe=[batch, ...]."
            ) from error


def is_batch(value: Any) -> bool:
    """Whether something is one batch, not an iterable of them: a tensor, a mapping, or a row of plain values."""
    if isinstance(value, Tensor | Mapping | str | MicroBatches):
        return True
    if isinstance(value, list | tuple):
        return any(isinstance(part, Tensor | int | float | str) or part is None for part in value)
    return not isinstance(value, Iterable)


def micro_batches(batch: Any) -> Any:
    """A list of batches as one batch whose loss is their mean; anything else as it is."""
    is_several = isinstance(batch, list) and batch and not is_batch(batch)
    return MicroBatches(batch) if is_several else batch


def size_of(batch: Any) -> int:
    """Examples in a batch or in its micro-batches together; one for each where they cannot be counted."""
    return sum(_count(part) for part in _parts(batch))


def fingerprint(batch: Any) -> tuple[Any, ...]:
    """A few numbers that tell one batch from another; of what cannot be looked into, which object it is."""
    parts = _parts(batch)
    found = [x.detach() for part in parts for x in tensors(part)]
    objects = tuple(id(part) for part in parts if not tensors(part))
    return objects + tuple((tuple(x.shape), float(_some(_entries(x)).double().sum())) for x in found if x.numel())


@contextmanager
def batches_kept(batches: Iterable[Any]) -> Iterator[None]:
    """What is written to the tensors of batches inside is undone.

    Cost:
        A copy of them while it lasts.
    """
    parts = [part for batch in batches for part in _parts(batch)]
    found = {id(x): x for part in parts for x in tensors(part) if not x.is_inference()}  # which nobody writes to
    kept = [(x, x._version, x.detach().clone()) for x in found.values()]
    try:
        yield
    finally:
        with torch.no_grad():
            for x, version, before in kept:
                if x._version != version:
                    x.copy_(before)


@contextmanager
def generators_kept(probe: Any) -> Iterator[None]:
    """The generators of a data loader stand afterwards where they stood."""
    sampler = getattr(probe, "sampler", None)
    found = [getattr(part, "generator", None) for part in (probe, sampler)]
    states = [(g, g.get_state()) for g in found if isinstance(g, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def _parts(batch: Any) -> Sequence[Any]:
    return batch.batches if isinstance(batch, MicroBatches) else [batch]


def _entries(x: Tensor) -> Tensor:
    """The numbers that a tensor holds, sparse ones without their places."""
    return x if x.layout == torch.strided else x._values() if x.is_sparse else x.values()


def _some(x: Tensor) -> Tensor:
    """Entries from all over a tensor: the first of every image may be those of its border."""
    ratio = (5**0.5 - 1) / 2  # its multiples, modulo 1, lie evenly and fall in step with no shape
    places = torch.arange(NUM_NOTED, dtype=torch.float64, device="cpu") * ratio % 1 * x.numel()
    return x.reshape(-1)[places.long().to(x.device)]


def _is_same(batch: Any, kept: Any) -> bool:
    both = tensors(batch), tensors(kept)
    return len(both[0]) == len(both[1]) > 0 and all(torch.equal(x.cpu(), y) for x, y in zip(*both, strict=True))


def _first(batches: Iterable[Any]) -> list[Any]:
    try:
        return [batch for batch, _ in zip(batches, range(MAX_BATCHES), strict=False)]
    except Exception as error:
        raise ConfigError(
            f"watch: probe must be a batch, an iterable of batches or a number; reading it raised "
            f"{type(error).__name__}: {error}."
        ) from error


def _kept(batch: Any) -> Any:
    """A copy of the batch on the CPU, which later changes of the original leave alone."""
    if tensors(batch) or isinstance(batch, list | tuple | Mapping):
        return mapped(batch, lambda x: x.detach().to("cpu", copy=True))
    found = deepcopy(batch)
    return found.to("cpu") if hasattr(found, "to") else found


def _moved(batch: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if not tensors(batch) and hasattr(batch, "to"):  # an object that knows how to move itself
        return copy(batch).to(device)
    return mapped(batch, lambda x: x.to(device, dtype if dtype and x.is_floating_point() else x.dtype))


def _count(batch: Any) -> int:
    try:
        return num_examples(batch)
    except ShapeError:
        is_empty = isinstance(batch, Sized) and not isinstance(batch, Tensor) and len(batch) == 0
        return 0 if is_empty or any(x.numel() == 0 for x in tensors(batch)) else 1


def _is_counted(batch: Any) -> bool:
    try:
        return num_examples(batch) > 0
    except ShapeError:
        return False
