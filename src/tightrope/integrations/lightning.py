"""`Watch`, a callback for Lightning's Trainer.

By default the loss is what `training_step` returns. That method also logs, counts metrics and collects outputs; it is
called so that none of this is seen: its logging does nothing, the trainer's loggers are dummies, and what the module
and its parts hold as plain attributes are copies, for as long as the call lasts.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

try:
    from lightning.pytorch import Callback
    from lightning.pytorch.loggers.logger import DummyLogger
except ImportError:
    try:
        from pytorch_lightning import Callback
        from pytorch_lightning.loggers.logger import DummyLogger
    except ImportError as error:
        raise ImportError(
            "tightrope.integrations.lightning needs Lightning, which is not installed. Install tightrope[lightning]."
        ) from error

from tightrope.curvature import LossFn
from tightrope.errors import ConfigError, check_count
from tightrope.monitor import Sink, Watcher, watch

from .accumulation import harmless, joined, on_one_rank, plain, run_directory, weighted

WHOLE = ("SingleDeviceStrategy", "DDPStrategy")
"""Strategies, or what they derive from, under which every process holds the whole model."""
CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict)
TORCH_OWN = frozenset(vars(nn.Module()))
"""Attributes that torch keeps for itself in every module."""


class Watch(Callback):  # type: ignore[misc]
    """Watches a Trainer: `Trainer(callbacks=[Watch()])`. Training is bit for bit what it is without.

    Args:
        loss_fn: (module, batch) -> scalar, the loss trained on. Default what `training_step` returns, computed so that
            nothing is logged or counted. Needed under manual optimization, and where `training_step` has other
            effects than on the module, its metrics and its loggers.
        probe, budget, every, run_dir, sinks: As for `tightrope.watch`; the run directory is by default a new one in
            the trainer's `log_dir`, or below runs/ where nothing is logged.
        clip_norm: Default `gradient_clip_val` of the trainer, if it clips by norm.
        optimizer: Which of several to watch.
    Attributes:
        watcher: The `tightrope.monitor.Watcher` of the training under way, or of the last one; None before.
    """

    def __init__(
        self,
        loss_fn: LossFn | None = None,
        *,
        probe: Any = None,
        budget: float = 0.03,
        every: int | None = None,
        run_dir: str | Path | None = None,
        clip_norm: float | None = None,
        sinks: Sequence[str | Sink] | None = (),
        optimizer: int = 0,
    ) -> None:
        self.watcher: Watcher | None = None
        self._loss_fn, self._clip_norm, self._run_dir, self._optimizer = loss_fn, clip_norm, run_dir, optimizer
        self._settings: dict[str, Any] = {"probe": probe, "budget": budget, "every": every, "sinks": sinks}
        self._batches: list[Any] = []
        self._losses: list[Any] = []
        self._step = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to watch."""
        self.close()
        with harmless(self.close):
            folder = trainer.log_dir if trainer.loggers else None  # asks every rank
            if not trainer.is_global_zero:
                return
            _check_trainer(trainer, pl_module, self._loss_fn, self._optimizer)
            on_one_rank(trainer.world_size)
            clips = trainer.gradient_clip_algorithm is None or str(trainer.gradient_clip_algorithm.value) == "norm"
            self.watcher = watch(
                pl_module,
                trainer.optimizers[self._optimizer],
                self._loss_fn or TrainingStep(trainer),
                run_dir=run_directory(self._run_dir, folder),
                clip_norm=self._clip_norm or (trainer.gradient_clip_val if clips else None) or None,
                **self._settings,
            )
            self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take in a batch, and if it completed an optimizer step, that step."""
        if self.watcher is None or not self.watcher.is_on:
            return
        with harmless(self.close):
            self._batches.append(batch)
            self._losses.append(plain(outputs.get("loss") if isinstance(outputs, Mapping) else outputs))
            if trainer.global_step == self._step:
                return
            self._step = trainer.global_step
            batches, self._batches = self._batches, []
            losses, self._losses = self._losses, []
            n = len(batches)
            if pl_module.automatic_optimization:
                # Each loss was divided by this number, also where the end of the epoch cut the last step short.
                weights, of_losses = [1 / trainer.accumulate_grad_batches] * n, [1.0] * n
            else:
                weights, of_losses = [1 / n] * n, [1 / n] * n
            self.watcher.step(joined(batches, weights), weighted(losses, of_losses))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Take every hook away and store how the run ended."""
        self.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The same where training was interrupted."""
        self.close()

    def close(self, *, has_failed: bool = False) -> None:
        """End watching. Called again, it does nothing."""
        self._batches, self._losses = [], []
        if self.watcher is not None:
            self.watcher.close(has_failed=has_failed)


class TrainingStep:
    """The loss that a LightningModule's `training_step` returns, without anything else that it does.

    Args:
        trainer: The module's trainer.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def __call__(self, model: Any, batch: Any) -> Any:
        takes_index = len(inspect.signature(model.training_step).parameters) > 1
        with unseen(model, self.trainer):
            output = model.training_step(batch, 0) if takes_index else model.training_step(batch)
        return output.get("loss") if isinstance(output, Mapping) else output


@contextmanager
def unseen(module: nn.Module, trainer: Any) -> Iterator[None]:
    """Inside, nothing is logged, and plain attributes of a module and its parts are copies of what they were.

    That the trainer's loggers can be dummies for a while is used by Lightning's own tuner.
    """
    parts = [(part, dict(vars(part))) for part in module.modules()]
    loggers = trainer.loggers
    try:
        trainer.loggers = [DummyLogger() for _ in loggers]
        for part, held in parts:
            vars(part).update({name: _copied(value) for name, value in held.items() if name not in TORCH_OWN})
        vars(module).update(log=_ignore, log_dict=_ignore)
        yield
    finally:
        trainer.loggers = loggers
        for part, held in parts:
            for name in vars(part).keys() - held.keys():
                del vars(part)[name]
            vars(part).update(held)


def _copied(value: Any) -> Any:
    """A copy of what a call may change in place: a metric's state, a list of outputs."""
    if isinstance(value, Tensor):
        return value if value.requires_grad else value.clone()
    return value.copy() if type(value) in CONTAINERS else value


def _ignore(*unused: Any, **also: Any) -> None:
    """In place of a method that logs."""


def _check_trainer(trainer: Any, module: Any, loss_fn: LossFn | None, optimizer: int) -> None:
    check_count("Watch: optimizer", optimizer, minimum=0)
    strategy = {each.__name__ for each in type(trainer.strategy).__mro__}
    if not strategy & set(WHOLE):
        raise ConfigError(
            f"watch: every process must hold the whole model; got {type(trainer.strategy).__name__}. Train on one "
            "device, or with strategy='ddp'."
        )
    if optimizer >= len(trainer.optimizers):
        raise ConfigError(
            f"watch: there must be an optimizer of number {optimizer}; the module has {len(trainer.optimizers)}. "
            "Choose another by Watch(optimizer=...)."
        )
    names = inspect.signature(module.training_step).parameters
    if loss_fn is None and (not module.automatic_optimization or "dataloader_iter" in names):
        raise ConfigError(
            "watch: training_step must compute a loss of its batch and no more; this one steps the optimizer or "
            "fetches its data itself. Give Watch a loss_fn(module, batch)."
        )
