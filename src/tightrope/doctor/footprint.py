"""How many bytes graphs hold while something runs, and how many are free."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor


class SavedBytes:
    """Bytes that autograd graphs hold, each piece of memory once, for as long as a graph holds it.

    Attributes:
        peak: The most at any moment.
    """

    def __init__(self, aside: Iterable[Tensor]) -> None:
        self.peak = self._held = 0
        self._aside = {_address(x) for x in aside}
        self._holders: Counter[int] = Counter()

    def take(self, x: Tensor) -> _Saved:
        """Count a tensor that a graph saves, until the graph lets go of it."""
        return _Saved(x, self, _address(x), x.untyped_storage().nbytes())

    def add(self, address: int, num_bytes: int) -> None:
        """One more holder of a piece of memory."""
        self._holders[address] += 1
        if self._holders[address] == 1 and address not in self._aside:
            self._held += num_bytes
            self.peak = max(self.peak, self._held)

    def remove(self, address: int, num_bytes: int) -> None:
        """One holder less."""
        self._holders[address] -= 1
        if self._holders[address] == 0 and address not in self._aside:
            self._held -= num_bytes


class _Saved:
    """What a graph holds in place of a tensor."""

    def __init__(self, x: Tensor, account: SavedBytes, address: int, num_bytes: int) -> None:
        self.x, self.account, self.address, self.num_bytes = x, account, address, num_bytes
        account.add(address, num_bytes)

    def __del__(self) -> None:
        self.account.remove(self.address, self.num_bytes)


@contextmanager
def saved_bytes(aside: Iterable[Tensor]) -> Iterator[SavedBytes]:
    """Count the memory that graphs built inside hold, that of the tensors `aside` excepted.

    What gradient checkpointing saves to repeat a forward pass is its own affair and not seen.
    """
    account = SavedBytes(aside)
    with torch.autograd.graph.saved_tensors_hooks(account.take, lambda saved: saved.x):
        yield account


def free_bytes(device: torch.device) -> float:
    """Free memory of a device; infinity where it cannot be told."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    kilobytes = [float(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024 * kilobytes[0] if kilobytes and device.type == "cpu" else math.inf


def _address(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()
