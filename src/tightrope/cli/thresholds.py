"""A method's stability threshold line by line."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tightrope.errors import ConfigError, check_number
from tightrope.optim import Identity, Momentum, Recipe, RuledRecipe, sam_threshold
from tightrope.stability import growth_at_ratio


def describe_threshold(
    recipe: Recipe, step: int | None, rho: float, grad_norm: float | None
) -> Iterator[tuple[str, str]]:
    """Name and value of each line.

    Raises:
        ConfigError: the step, rho or the norm is out of its range, or the method's rules are not known.
    """
    if not isinstance(recipe, RuledRecipe):
        raise ConfigError(
            f"threshold: the rules of a method must be known; those of {recipe.label} are in its own code. Run "
            "`tightrope study aeos` on it."
        )
    check_number("threshold: step", 1 if step is None else step, lambda t: t >= 1, "be at least 1")
    check_number("threshold: rho", rho, lambda rho: 0 <= rho < math.inf, "be finite and at least 0")
    if grad_norm is not None and not rho:
        raise ConfigError("threshold: --grad-norm is of SAM's ascent and needs its length; give --rho as well.")
    momentum = recipe.momentum_rule.at(math.inf if step is None else step)
    lr, decay = recipe.lr, recipe.decoupled_decay
    value = momentum.stability_threshold(lr, decay)
    formula = "(2 - lr wd) / (lr F(-1))" if decay else "2 / (lr F(-1))"
    yield "method", recipe.label
    yield "P", recipe.formula
    yield "F(-1)", f"{momentum.alternating_gain:.6g}"
    yield "threshold", f"{value:.6g}   on {_operator(recipe, rho)}: {formula}"
    yield "in 1/lr", f"{value * lr:.6g} / lr{_when(recipe, step)}"
    yield "at 1.1x", f"grows {growth_at_ratio(momentum, lr, 1.1, decay):.4f} times a step"
    if rho and grad_norm is not None:
        yield "SAM", _sam_edge(recipe, value, rho, grad_norm)


def _when(recipe: RuledRecipe, step: int | None) -> str:
    """Of which step a threshold is, where the momentum changes with the step."""
    if isinstance(recipe.momentum_rule, Momentum):
        return ""
    if step is not None:
        return f" at step {step}"
    first, thousandth = (recipe.stability_threshold(t) * recipe.lr for t in (1, 1000))
    return f" in the limit; {first:.4g} / lr at step 1, {thousandth:.4g} / lr at step 1000 (--step)"


def _operator(recipe: RuledRecipe, rho: float) -> str:
    H = f"H + ({rho:g}/||g||) H^2" if rho else "H"
    shifted = recipe.weight_decay > 0 and not recipe.is_decay_decoupled
    whole = f"({H} + wd I)" if shifted else f"({H})" if rho else H
    return f"lambda_1(P^-1 {whole})"


def _sam_edge(recipe: RuledRecipe, value: float, rho: float, grad_norm: float) -> str:
    if not isinstance(recipe.preconditioner, Identity):
        return "no condition on lambda_1(H) alone: P does not commute with H"
    decay = 0.0 if recipe.is_decay_decoupled else recipe.weight_decay
    return f"lambda_1(H) = {sam_threshold(value - decay, rho, grad_norm):.6g} where ||g|| = {grad_norm:g}"
