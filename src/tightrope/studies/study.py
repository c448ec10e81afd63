"""A study: the runs a figure needs at each scale, what is drawn of them, and the checks that decide its claims."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import msgspec

from tightrope.errors import ConfigError, did_you_mean
from tightrope.training import RunConfig, from_mapping, override

from .check import Check
from .panels import Panel

Scale = Literal["small", "cpu", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)


@dataclass(frozen=True)
class Case:
    """One run of a study.

    Attributes:
        label: What tells it from the study's other runs, such as "Adam, lr 1e-3".
        config: The whole run.
        series: The runs that are judged and drawn together share it; the method, as a rule.
    """

    label: str
    config: RunConfig
    series: str = ""

    @cached_property
    def key(self) -> str:
        """Name of the run's directory: equal for equal configurations, whichever study asks for them.

        Cost: milliseconds, once; a grid asks for it at every report of every worker.
        """
        return run_key(self.config)


Grids = tuple[tuple[Scale, Callable[[], Sequence[Case]]], ...]
"""What gives the runs at each scale."""


@dataclass(frozen=True)
class Study:
    """A figure as a value.

    Attributes:
        name: As the command line knows it.
        title: In a few words.
        figure: Of the paper (Cohen et al. 2022, arXiv 2207.14484), or whose it is.
        version: Of this definition; a store that was made with another one is refused.
        grids: What gives the runs at each scale there is; an exact study needs none and has none.
        panels: What to draw, a row each.
        caption: How to read what is drawn.
        checks: What decides its claims.
    """

    name: str
    title: str
    figure: str
    version: int
    checks: tuple[Check, ...]
    grids: Grids = ()
    panels: tuple[Panel, ...] = ()
    caption: str = ""

    @property
    def scales(self) -> tuple[Scale, ...]:
        """Where it can be run: an exact study is the same at all of them."""
        return tuple(scale for scale, _ in self.grids) or SCALES

    def cases(self, scale: str, settings: Iterable[str] = ()) -> tuple[Case, ...]:
        """The runs at a scale, with settings `key=value` put over each; a seed is that of the first of several.

        Raises:
            ConfigError: the scale is not known or the study has no runs there, a setting does not fit, or the settings
                make two different runs the same.
        """
        check_scale(scale)
        if scale not in self.scales:
            raise ConfigError(f"study: {self.name} has no runs at scale {scale}; it has {', '.join(self.scales)}.")
        grid = dict(self.grids).get(scale)
        return _with_settings(self.name, tuple(grid()) if grid else (), tuple(settings))


def check_scale(scale: str) -> None:
    """Raise unless there is such a scale.

    Raises:
        ConfigError: with the nearest known one.
    """
    if scale not in SCALES:
        raise ConfigError(f"--scale: '{scale}' is not known. {did_you_mean(scale, SCALES)}")


def run_key(config: RunConfig) -> str:
    """Sixteen hexadecimal digits of a configuration, as it is stored: 1 and 1.0 are the same learning rate.

    Settings at their defaults do not enter, so that a setting that is new leaves old runs their keys. The code of a
    method that is not ours does: another version of it is another run.
    """
    text = json.dumps(_essence(from_mapping(stored(config))), sort_keys=True) + config.method.code
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def stored(config: RunConfig) -> dict[str, Any]:
    """A configuration as a run directory holds it."""
    return tomllib.loads(config.to_toml())


def _essence(value: Any) -> Any:
    """What a configuration says beyond its defaults, as plain values."""
    if not isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    said = {
        field.name: _essence(part)
        for field in msgspec.structs.fields(value)
        if (part := getattr(value, field.name)) != field.default
    }
    return {"name": value.__struct_config__.tag, **said}


def _in_turn(cases: Sequence[Case], configs: Sequence[RunConfig]) -> list[RunConfig]:
    """Configurations in which a seed that was set is the first of those that a study varies."""
    first = min(case.config.seed for case in cases)
    if any(config.seed != configs[0].seed for config in configs):
        return list(configs)  # none was set
    return [
        msgspec.structs.replace(config, seed=config.seed + case.config.seed - first)
        for case, config in zip(cases, configs, strict=True)
    ]


def _reseeded(case: Case, config: RunConfig) -> Case:
    """The case with another configuration, its label naming the seed that it has then."""
    return Case(re.sub(r"seed \d+", f"seed {config.seed}", case.label), config, case.series)


def _with_settings(name: str, cases: tuple[Case, ...], settings: tuple[str, ...]) -> tuple[Case, ...]:
    if not settings or not cases:
        return cases
    configs = [from_mapping(override(stored(case.config), settings)) for case in cases]
    changed = tuple(_reseeded(case, config) for case, config in zip(cases, _in_turn(cases, configs), strict=True))
    if len({case.key for case in changed}) < len({case.key for case in cases}):
        raise ConfigError(
            f"--set {' '.join(settings)}: must leave the runs of {name} different from one another; some became the "
            "same. Set what the study does not vary."
        )
    return changed
