"""`Watch`, a callback for Hugging Face's Trainer.

A removable hook on the model sees the real batches and their losses. Trainer averages a loss over the tokens of all
micro-batches of a step: each micro-batch's loss is the sum over its tokens divided by the number of tokens in all of
them, which Trainer hands to the model as `num_items_in_batch`. Here every example carries its share of that number, so
that a batch, a part of one, and several together are all averaged over their tokens in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "tightrope.integrations.transformers needs transformers and accelerate, which are not installed. "
        "Install tightrope[transformers]."
    ) from error

from tightrope.curvature import LossFn, num_examples
from tightrope.errors import ConfigError, ShapeError
from tightrope.monitor import Sink, Watcher, watch

from .accumulation import harmless, joined, on_one_rank, plain, run_directory, weighted

ITEMS = "num_items_in_batch"
AGREEMENT = 1e-2
"""How far the loss Trainer logs may be from the model's own."""


class Watch(TrainerCallback):  # type: ignore[misc]
    """Watches a Trainer: `Trainer(..., callbacks=[Watch()])`. Training is bit for bit what it is without.

    Args:
        loss_fn: (model, batch) -> scalar, where Trainer trains on another loss than the model's own; `batch` is the
            dict of what the model is called with. Where Trainer keeps labels from the model, as for label smoothing or
            `compute_loss_func`, give a `probe` that holds them as well.
        probe, budget, every, run_dir, sinks: As for `tightrope.watch`; the run directory is by default a new one in
            `output_dir`.
        clip_norm: Default `max_grad_norm` of the training arguments.
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
    ) -> None:
        self.watcher: Watcher | None = None
        self._loss_fn, self._clip_norm, self._run_dir, self._probe = loss_fn, clip_norm, run_dir, probe
        self._settings: dict[str, Any] = {"probe": probe, "budget": budget, "every": every, "sinks": sinks}
        self._handle: Any = None
        self._calls: list[tuple[dict[str, Any], Any]] = []
        self._num_parts, self._is_training = 0, False
        self._unlogged: tuple[Any, int] = 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, optimizer: Any, **rest: Any) -> None:
        """Begin to watch."""
        self.close()
        with harmless(self.close):
            if not state.is_world_process_zero:
                return
            _check_arguments(args, has_loss_fn=self._loss_fn is not None, has_probe=self._probe is not None)
            on_one_rank(args.world_size)
            self.watcher = watch(
                model,
                optimizer,
                self._loss_fn or model_loss,
                run_dir=run_directory(self._run_dir, args.output_dir),
                clip_norm=self._clip_norm or args.max_grad_norm or None,
                **self._settings,
            )
            if self.watcher.is_on:
                self._handle = model.register_forward_hook(self._see, with_kwargs=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """What the model is called with from here to the end of the step is what is trained on."""
        self._calls, self._num_parts, self._is_training = [], 0, self._handle is not None

    def on_substep_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """A micro-batch is done."""
        with harmless(self.close):
            self._end_part()

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """The optimizer has stepped, the scheduler too."""
        if not self._is_training or self.watcher is None:
            return
        with harmless(self.close):
            self._end_part()
            self._is_training = False
            calls, self._calls = self._calls, []
            batch, loss = self._step_of(calls, args.world_size if args.average_tokens_across_devices else 1)
            total, num = self._unlogged
            self._unlogged = (math.nan if loss is None else total + loss), num + 1
            self.watcher.step(batch, loss)
            if not self.watcher.is_on:
                self.close()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        """See whether the loss that is logged is the one that is watched."""
        (total, num), self._unlogged = self._unlogged, (0.0, 0)
        if not logs or "loss" not in logs or num == 0 or args.world_size > 1:
            return
        with harmless(self.close):
            own, said = float(total) / num, float(logs["loss"])
            if math.isfinite(own) and math.isfinite(said) and abs(own - said) > AGREEMENT * abs(said) + 1e-4:
                raise ConfigError(
                    f"watch: the model's own loss must be the one trained on; it was {own:.4g} where Trainer logs "
                    f"{said:.4g}. Give Watch the loss_fn that Trainer uses."
                )

    def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Take every hook away and store how the run ended."""
        self.close()

    def close(self, *, has_failed: bool = False) -> None:
        """End watching, also where a training was interrupted. Called again, it does nothing."""
        if self._handle is not None:
            self._handle.remove()
        self._handle, self._calls, self._unlogged, self._is_training = None, [], (0.0, 0), False
        if self.watcher is not None:
            self.watcher.close(has_failed=has_failed)

    def _see(self, model: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        """Keep what the model was called with, if it is to train on it."""
        if self._is_training and model.training and torch.is_grad_enabled():
            loss = None if self._loss_fn is not None else _loss_of(output)
            # Trainer goes on to scale the loss in place.
            self._calls.append((kwargs, plain(loss).clone() if isinstance(loss, Tensor) else loss))

    def _end_part(self) -> None:
        if not self._is_training:
            return
        self._num_parts += 1
        num_calls = len(self._calls) - self._num_parts + 1
        if num_calls > 1 and self._probe is None:
            raise ConfigError(
                f"watch: Trainer must call the model once a batch; it does so {num_calls} times. Give Watch a "
                "loss_fn, and a probe for it."
            )
        del self._calls[self._num_parts :]

    def _step_of(self, calls: list[tuple[dict[str, Any], Any]], num_ranks: int) -> tuple[Any, Any]:
        """The batch and the loss of a step from its micro-batches."""
        batches, losses = [kwargs for kwargs, _ in calls], [loss for _, loss in calls]
        n = len(calls)
        if n == 0:
            return None, None
        if self._loss_fn is not None or any(batch.get(ITEMS) is None for batch in batches):
            batches = [{key: x for key, x in batch.items() if key != ITEMS} for batch in batches]
            return joined(batches, [1 / n] * n), weighted(losses, [1 / n] * n)
        sizes = [_num_examples(batch) for batch in batches]
        weights = [size / sum(sizes) for size in sizes]
        shared = [_shared(batch, size, sum(sizes) * num_ranks) for batch, size in zip(batches, sizes, strict=True)]
        return joined(shared, weights), weighted(losses, [float(num_ranks)] * n)


def model_loss(model: Any, batch: Any) -> Any:
    """The model's own loss of the dict that it is called with, over as many items as its examples have shares of."""
    inputs = dict(batch)
    if isinstance(inputs.get(ITEMS), Tensor):
        inputs[ITEMS] = inputs[ITEMS].sum()
    loss = _loss_of(model(**inputs))
    if loss is None:
        raise ConfigError(
            "watch: the model must return the loss it is trained on; it returns none, so Trainer computes it. Give "
            "Watch that loss_fn, and a probe that holds the labels."
        )
    return loss


def _loss_of(output: Any) -> Any:
    """As Trainer finds it in what a model returns: under its name, or first."""
    if isinstance(output, Mapping):
        return output.get("loss")
    first = output[0] if isinstance(output, tuple | list) and output else None
    return first if isinstance(first, Tensor) and first.numel() == 1 else None


def _num_examples(batch: dict[str, Any]) -> int:
    try:
        return num_examples({key: x for key, x in batch.items() if key != ITEMS})
    except ShapeError:  # it cannot be cut into examples
        return 1


def _shared(batch: dict[str, Any], size: int, total: int) -> dict[str, Any]:
    """The batch with each example's share of the items that the whole step is averaged over."""
    items = torch.as_tensor(batch[ITEMS], dtype=torch.float32)
    return {**batch, ITEMS: (items / total).expand(size)}


def _check_arguments(args: Any, *, has_loss_fn: bool, has_probe: bool) -> None:
    is_sharded = any(getattr(args, name, None) for name in ("fsdp", "deepspeed", "parallelism_config"))
    if is_sharded or args.n_gpu > 1:
        raise ConfigError(
            "watch: every process must hold the whole model on one device; this run shards or replicates it. Train "
            "on one device, or with one process a device."
        )
    if args.label_smoothing_factor and not (has_loss_fn and has_probe):
        raise ConfigError(
            "watch: the model must compute the loss it is trained on; with label smoothing Trainer does, and keeps "
            "the labels from it. Give Watch that loss_fn, and a probe that holds the labels."
        )
