"""A user's loss function, called so that it can compute a loss and do nothing else to the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tightrope.curvature import autocast_set_aside, gradients_set_aside, tensors
from tightrope.errors import ConfigError, ShapeError

from .admission import changes_the_run
from .attributes import attributes_kept
from .hooks import StepHooks


@contextmanager
def confined(model: nn.Module, hooks: StepHooks) -> Iterator[None]:
    """Inside, gradients of the model stay out of reach, the watched optimizer refuses to step, and autocast is off.

    Afterwards plain attributes of its modules are as they were.

    Raises:
        ConfigError: loss_fn wrote a gradient, or called the optimizer.
    """
    params = list(model.parameters())
    with attributes_kept(model), gradients_set_aside(params), hooks.closed(), autocast_set_aside():
        try:
            yield
        except Exception as error:
            if any(w.grad is not None for w in params):
                raise changes_the_run("backward()") from error
            raise
        if any(w.grad is not None for w in params):
            raise changes_the_run("backward()")


@contextmanager
def on_trial(model: nn.Module, batch: Any) -> Iterator[None]:
    """The first calls of a loss function: weights that it writes to are put back, and what it raises is explained.

    Raises:
        ConfigError: it failed, or moved a weight.
    Cost:
        A copy of the weights that are trained while it lasts.
    """
    kept = [(w, w._version, w.detach().clone() if w.requires_grad else None) for w in model.parameters()]
    try:
        yield
    except (ConfigError, torch.OutOfMemoryError, MemoryError):
        raise
    except ShapeError as error:
        raise ConfigError(f"watch: {str(error).removeprefix('Hessian: ')}") from error
    except Exception as error:
        raise ConfigError(
            f"watch: loss_fn must compute the loss of the batches that `step` or `probe` give; on {_words(batch)} it "
            f"raised {type(error).__name__}: {str(error).rstrip('.')}.{_hint(batch)}"
        ) from error
    finally:
        moved = [(w, before) for w, version, before in kept if w._version != version]
        with torch.no_grad():
            for w, before in moved:
                if before is not None:
                    w.copy_(before)
    if moved:
        raise changes_the_run("something that writes to the weights")


def _hint(batch: Any) -> str:
    """A list of tensors is taken for one batch, which it may not be."""
    if not isinstance(batch, list) or not all(isinstance(part, Tensor) for part in batch):
        return ""
    return " If each tensor is a batch, give tr.curvature.MicroBatches(batch)."


def _words(batch: Any) -> str:
    """What kind of batch it is, with the shapes of its tensors."""
    shapes = ", ".join(str(tuple(x.shape)) for x in tensors(batch)[:4])
    return f"a {type(batch).__name__} of {shapes}" if shapes else f"a {type(batch).__name__}"
