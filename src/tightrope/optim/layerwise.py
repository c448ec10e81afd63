"""Layer-wise learning rates for fine-tuning: lower layers, which hold more general features, move less."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

from tightrope.errors import ConfigError, check_count, check_number

Layers = Callable[[str], int] | Sequence[str | Sequence[str]]


def layerwise_groups(
    model: nn.Module,
    lr: float,
    decay: float = 0.75,
    *,
    layers: Layers | None = None,
    has_plain_vectors: bool = False,
) -> list[dict[str, Any]]:
    """Parameter groups for any optimizer, from the bottom layer up, with lr * decay^(layers above it).

    Layers are found in the order in which the model registers its parts: every part is a layer, but one that holds a
    Sequential or ModuleList is opened, and so are these, whose parts count each (a stack of twelve transformer blocks
    is twelve layers). A part of a stack is never opened unless it is a stack itself. Parameters that an opened module
    holds itself (position embeddings, class tokens) join the next layer. A tied parameter belongs to the lowest of its
    places. Frozen parameters are left out, but their layers count, so freezing some changes no other's rate.

    Args:
        model: Any module.
        lr: Learning rate of the top layer.
        decay: Factor from a layer to the one below it, in (0, 1].
        layers: The layers instead, from the bottom up: name prefixes ("encoder.0"; a tuple of them is one layer), or
            a function from a parameter's name to its layer, 0 for the bottom one.
        has_plain_vectors: Give biases and norms (fewer than two dimensions, or of a module named after a norm) groups
            of their own with weight_decay 0. All else is left to the optimizer.
    Returns:
        Groups with `params`, `lr`, `name` and maybe `weight_decay`.
    Raises:
        ConfigError: decay or lr is out of its range, or a trainable parameter belongs to no layer.
    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
        >>> [(group["name"], group["lr"]) for group in layerwise_groups(model, 1.0, 0.5)]
        [('0', 0.5), ('2', 1.0)]
    References:
        Howard and Ruder 2018 (arXiv 1801.06146), section 3.2 (a factor of 2.6 a layer); Clark et al. 2020 (arXiv
        2003.10555), fine-tuning details.
    """
    check_number("layerwise_groups: decay", decay, lambda d: 0 < d <= 1, "be in (0, 1]", "1 is one rate for all.")
    check_number("layerwise_groups: lr", lr, lambda lr: 0 <= lr < math.inf, "be finite and at least 0")
    level, names = _by_function(model, layers) if callable(layers) else _by_prefix(model, layers or _layers(model))
    plain = _plain_names(model) if has_plain_vectors else set()
    members: dict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    for name, w in model.named_parameters():
        if w.requires_grad:
            members[level[name], name in plain].append(w)
    return [
        {"params": params, "lr": lr * decay ** (len(names) - 1 - depth), "name": names[depth]}
        | ({"weight_decay": 0.0} if is_plain else {})
        for (depth, is_plain), params in sorted(members.items(), key=lambda item: item[0])
    ]


def _by_function(model: nn.Module, level_of: Callable[[str], int]) -> tuple[dict[str, int], list[str]]:
    """Layer of each parameter, and the layers' names."""
    level = {name: level_of(name) for name, _ in model.named_parameters()}
    for name, layer in level.items():
        check_count(f"layerwise_groups: layers({name!r})", layer, 0)
    return level, [f"layer {number}" for number in range(max(level.values(), default=-1) + 1)]


def _by_prefix(model: nn.Module, layers: Sequence[str | Sequence[str]]) -> tuple[dict[str, int], list[str]]:
    """Layer of each parameter by the longest prefix that names it or a module around it, and the layers' names."""
    tuples = [(layer,) if isinstance(layer, str) else tuple(layer) for layer in layers]
    level_of = {prefix: number for number, prefixes in enumerate(tuples) for prefix in prefixes}
    places = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for prefix in level_of:
        if not any(f"{name}.".startswith(f"{prefix}.") for name in places):
            raise ConfigError(f"layerwise_groups: every prefix must name a part of the model; got {prefix!r}.")
    level = {}
    for name, w in model.named_parameters():
        parts = name.split(".")
        around = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        found = next((level_of[prefix] for prefix in around if prefix in level_of), None)
        if found is not None:
            level[name] = found
        elif w.requires_grad:
            raise ConfigError(
                f"layerwise_groups: every parameter must belong to a layer; {name!r} has no prefix in it."
            )
    return level, [prefixes[0] for prefixes in tuples]


def _layers(model: nn.Module) -> list[tuple[str, ...]]:
    """Prefixes of the layers that the rule finds and that have parameters of their own, from the bottom up."""
    own = [name for name, _ in model.named_parameters()]
    found: list[tuple[str, ...]] = []
    held: tuple[str, ...] = ()
    for prefix, is_layer in _walk(model, ""):
        if not is_layer:
            held += (prefix,) if prefix in own else ()
        elif any(name.startswith(f"{prefix}.") for name in own):
            found.append((prefix, *held))
            held = ()
    return [*found, held] if held else found


def _walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, bool]]:
    """Names in order from the bottom up: of parameters an opened module holds itself (False), and of layers (True)."""
    for name, _ in module.named_parameters(prefix, recurse=False):
        yield name, False
    for name, part in module.named_children():
        inner = f"{prefix}.{name}" if prefix else name
        in_stack = _is_stack(module)
        if _is_stack(part) or (not in_stack and any(_is_stack(deeper) for deeper in part.modules())):
            yield from _walk(part, inner)
        else:
            yield inner, True


def _is_stack(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList)


def _plain_names(model: nn.Module) -> set[str]:
    """Names of biases and of the parameters of norms."""
    return {
        f"{prefix}.{name}".lstrip(".")
        for prefix, module in model.named_modules()
        for name, w in module.named_parameters(recurse=False)
        if w.ndim < 2 or "norm" in type(module).__name__.lower()
    }
