"""The data a watched run is measured on: kept on the CPU, the same from reading to reading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from tightrope.curvature import MicroBatches, num_examples, rows, tensors
from tightrope.errors import ConfigError, ShapeError

MAX_BATCHES = 256
"""Batches taken from an iterable; an endless one ends here."""


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
        apart = (part for batch in batches for part in (batch.batches if isinstance(batch, MicroBatches) else [batch]))
        self.batches = [_kept(part) for part in apart]
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

        Raises:
            ShapeError: the batch cannot be cut into examples.
        """
        for part in batch.batches if isinstance(batch, MicroBatches) else [batch]:
            if self.num_wanted:
                n = min(self.num_wanted, num_examples(part))
                self.batches.append(_kept(rows(part, slice(0, n))))
                self.num_wanted -= n

    def part(self, share: float, device: torch.device) -> Any:
        """A batch of about this share of the examples, the first ones of the set, where the model is."""
        wanted, taken = max(1, round(share * self.size)), []
        for batch in self.batches:
            n = _count(batch)
            if wanted >= n:
                taken.append((batch, n))
            elif wanted > 0 and _can_be_cut(batch):
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


def fingerprint(batch: Any) -> tuple[Any, ...]:
    """A few numbers that tell one batch from another."""
    parts = batch.batches if isinstance(batch, MicroBatches) else [batch]
    found = [x for part in parts for x in tensors(part) if x.numel()]
    return tuple((tuple(x.shape), float(x.detach().reshape(-1)[:64].double().sum())) for x in found)


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
    return _mapped(batch, lambda x: x.detach().to("cpu", copy=True))


def _moved(batch: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    return _mapped(batch, lambda x: x.to(device, dtype if dtype and x.is_floating_point() else x.dtype))


def _mapped(batch: Any, change: Any) -> Any:
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {key: _mapped(part, change) for key, part in batch.items()}
    if isinstance(batch, list | tuple):
        parts = [_mapped(part, change) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def _count(batch: Any) -> int:
    try:
        return num_examples(batch)
    except ShapeError:
        is_empty = isinstance(batch, Sized) and not isinstance(batch, Tensor) and len(batch) == 0
        return 0 if is_empty or any(x.numel() == 0 for x in tensors(batch)) else 1


def _can_be_cut(batch: Any) -> bool:
    try:
        return num_examples(batch) > 1
    except ShapeError:
        return False
