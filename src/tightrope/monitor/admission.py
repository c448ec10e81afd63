"""What `watch` is given, looked at before anything is done with it."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from tightrope.errors import ConfigError, check_number


def check_settings(budget: float, every: int | None, clip_norm: float | None) -> None:
    """
    Raises:
        ConfigError: one of them is out of its range.
    """
    check_number("watch: budget", budget, lambda b: 0 < b < 1, "be a share above 0 and below 1, such as 0.03")
    if every is not None:
        check_number("watch: every", every, lambda n: n >= 1 and int(n) == n, "be a whole number of steps, 1 or more")
    if clip_norm is not None:
        check_number("watch: clip_norm", clip_norm, lambda c: c > 0, "be above 0")


def check_loss(model: Any, loss_fn: Any) -> None:
    """
    Raises:
        ConfigError: the model is no module, or loss_fn cannot be called with a model and a batch.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"watch: model must be a torch module; got {type(model).__name__}. Give the one trained.")
    if not callable(loss_fn):
        raise ConfigError(f"watch: loss_fn must be a function of (model, batch); got {type(loss_fn).__name__}.")
    try:
        signature = inspect.signature(loss_fn)
    except (ValueError, TypeError):  # made in C: it tells nothing of its arguments
        return
    try:
        signature.bind(model, None)
    except TypeError:
        raise ConfigError(
            f"watch: loss_fn must take (model, batch); got one that takes {signature}. Wrap it, such as "
            "`lambda model, batch: criterion(model(batch[0]), batch[1])`."
        ) from None


def check_ownership(params: Sequence[Tensor], known: Collection[int]) -> None:
    """
    Args:
        params: What the optimizer moves.
        known: Ids of the model's parameters.
    Raises:
        ConfigError: the optimizer moves nothing, parameters of something else, or such as cannot be measured.
    """
    check_moves(params)
    num_foreign = sum(id(w) not in known for w in params)
    if num_foreign:
        raise ConfigError(
            f"watch: the optimizer must move parameters of the model it is given; {num_foreign} of its {len(params)} "
            "are not. Give the model that is trained, not a copy of it, and the optimizer the parameters it has now."
        )
    devices = sorted({str(w.device) for w in params})
    if len(devices) > 1 or devices == ["meta"]:
        raise ConfigError(
            f"watch: the parameters must be on one device that holds numbers; got {', '.join(devices)}. A model in "
            "parts on several devices is not measured."
        )


def check_moves(params: Sequence[Tensor]) -> None:
    """
    Raises:
        ConfigError: there is no parameter.
    """
    if not params:
        raise ConfigError(
            "watch: the optimizer must move a parameter that requires a gradient; it moves none. Is all of it frozen?"
        )


def unwrapped(optimizer: Any) -> Optimizer:
    """The torch optimizer beneath wrappers.

    Raises:
        ConfigError: there is none.
    """
    outer = optimizer
    for _ in range(4):
        inner = getattr(optimizer, "optimizer", None)
        if not isinstance(inner, Optimizer):
            break
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(f"watch: needs a torch optimizer; got {type(outer).__name__}.")
    return optimizer


def changes_the_run(what: str) -> ConfigError:
    """What to say to a loss function that does more than compute the loss."""
    return ConfigError(
        f"watch: loss_fn must compute the loss and change nothing; it calls {what}. Leave that to the loop and give "
        "the part before it."
    )
