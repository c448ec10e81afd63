"""A loop under Accelerate: its wrappers are looked through, and micro-batches are collected to steps."""

from __future__ import annotations

from typing import Any

from torch import nn

from tightrope.curvature import LossFn
from tightrope.errors import ConfigError
from tightrope.monitor import Watcher
from tightrope.monitor import watch as watch_loop

from .accumulation import harmless, joined, on_one_rank, plain, weighted


def watch(accelerator: Any, model: nn.Module, optimizer: Any, loss_fn: LossFn, **settings: Any) -> AcceleratedWatcher:
    """Watch a loop whose model and optimizer went through `accelerator.prepare`, without changing it.

    The loop calls `watcher.step(batch, loss)` for every micro-batch, after the `with accelerator.accumulate(model)`
    block. Several processes are watched from the main one.

    Args:
        accelerator: The loop's `Accelerator`.
        model, optimizer: As `prepare` returned them.
        loss_fn: (model, batch) -> scalar, the loss handed to `accelerator.backward`. It is called with the model
            without what distributes it; the autocast that `prepare` put into its forward pass has no effect there.
        settings: `probe`, `budget`, `every`, `run_dir`, `clip_norm` and `sinks` of `tightrope.watch`.
    Returns:
        AcceleratedWatcher; switched off, with a line that says why, where something does not fit.
    """
    watcher = AcceleratedWatcher(accelerator)
    with harmless(watcher.close):
        if not accelerator.is_main_process:
            return watcher
        kind = str(getattr(accelerator.distributed_type, "value", accelerator.distributed_type))
        if kind != "NO" and not kind.startswith("MULTI_"):
            raise ConfigError(f"watch: every process must hold the whole model; got {kind}. Train it unsharded.")
        on_one_rank(accelerator.num_processes)
        whole = accelerator.unwrap_model(model)
        watcher.watcher = watch_loop(whole, optimizer, loss_fn, **settings)
    return watcher


class AcceleratedWatcher:
    """Watches a loop under Accelerate; made by `watch`. Its methods never raise into the loop.

    Attributes:
        watcher: The `tightrope.monitor.Watcher` that does the work.
    """

    def __init__(self, accelerator: Any) -> None:
        self.watcher = Watcher()
        self._accelerator = accelerator
        self._batches: list[Any] = []
        self._losses: list[Any] = []

    def step(self, batch: Any = None, loss: Any = None) -> None:
        """Tell of one micro-batch, and with the last one of an optimizer step of that step.

        Args:
            batch: The micro-batch; needed where `watch` was given no probe.
            loss: Its loss, as it was handed to `accelerator.backward`.
        """
        if not self.watcher.is_on:
            return
        with harmless(self.close):
            if batch is not None:
                self._batches.append(batch)
            self._losses.append(plain(loss))
            if self._accelerator.sync_gradients:
                batches, self._batches = self._batches, []
                losses, self._losses = self._losses, []
                # `backward` divides by this number also where the end of the data cut the last step short.
                share = 1.0 / self._accelerator.gradient_accumulation_steps
                self.watcher.step(joined(batches, [share] * len(batches)), weighted(losses, [share] * len(losses)))

    def close(self, *, has_failed: bool = False) -> None:
        """Take every hook away and store how the run ended. Called again, it does nothing."""
        self._batches, self._losses = [], []
        self.watcher.close(has_failed=has_failed)

    def __enter__(self) -> AcceleratedWatcher:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()
