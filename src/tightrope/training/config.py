"""The whole run as one value, and its two forms: TOML text and command-line settings."""

from __future__ import annotations

import math
import re
import tomllib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import tomli_w

from tightrope.errors import ConfigError, check_number, did_you_mean
from tightrope.optim import RECIPES, AnyRecipe, AnySchedule, Constant, Recipe
from tightrope.problems import PROBLEMS, AnyProblem, ProblemConfig

Count = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
"""Leaves room for the measurements' own seeds above it."""

NAMED_TABLES = ("problem", "method", "schedule")
"""Tables whose `name` picks what else they hold; `--set method=adam` names them by it."""

LARGEST = 1e30
"""No number of a problem or method may exceed it: float32 ends at 3e38, and a step multiplies a few of them."""
LARGEST_COUNT = 2**45
"""Nor any whole number: so many float64 are more than a process can address."""


class MeasureConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When and how closely to measure.

    Attributes:
        every: Steps between measurements; step 1 and the last are measured too. 0 for never.
        rtol, max_products: Of each eigensolve, see `top_eigenvalues`.
        sharpness: Measure the raw sharpness as well.
        audit_every: Measurements between audits; 0 for none.
        num_examples: Measure on the first so many examples; None for all.
    """

    every: Natural = 10
    rtol: float = 1e-2
    max_products: Count = 64
    sharpness: bool = True
    audit_every: Natural = 50
    num_examples: Count | None = None


class StopConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When to end before the last step.

    Attributes:
        loss: End once the training loss is at or below this.
        divergence: End as diverged once the loss is not finite, or this many times the first (or 1, if that is more).
    """

    loss: float | None = None
    divergence: float = 1e6


class RunConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run as a value: two equal configurations give the same numbers on the same machine.

    Attributes:
        problem: Model, data and loss.
        method: The gradient method and its hyperparameters.
        schedule: A factor on its learning rate for every step.
        num_steps: Optimizer steps at most.
        batch_size: Examples a step; None for all of them (full batch).
        seed: Of the weights and of the order of minibatches.
        dtype: "float32" or "float64".
        measure: When and how closely to measure.
        stop: When to end early.
        checkpoint_seconds: At most so long is lost when the run is killed; 0 for a checkpoint after every step.
    Raises:
        ConfigError: a value is out of its range.
    """

    problem: AnyProblem
    method: AnyRecipe
    schedule: AnySchedule = Constant()
    num_steps: Count = 500
    batch_size: Count | None = None
    seed: Seed = 0
    dtype: str = "float32"
    measure: MeasureConfig = MeasureConfig()
    stop: StopConfig = StopConfig()
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not isinstance(self.problem, ProblemConfig) or not isinstance(self.method, Recipe):
            raise ConfigError(
                "RunConfig: problem and method must be values such as Digits() and RECIPES['adam'](lr=1e-3); "
                f"got {self.problem!r} and {self.method!r}."
            )
        check_number("num_steps:", self.num_steps, lambda n: n >= 1 and n == int(n), "be a whole number, at least 1")
        if self.dtype not in ("float32", "float64"):
            raise ConfigError(f"dtype: must be 'float32' or 'float64'; got '{self.dtype}'.")
        if not 0 < self.method.lr < math.inf:
            raise ConfigError(f"method.lr: must be positive and finite; got {self.method.lr}.")
        if self.method.lr < 1 / LARGEST:
            raise ConfigError(f"method.lr: must be at least {1 / LARGEST:g}; got {self.method.lr}.")
        if not 0 <= self.method.weight_decay < math.inf:
            raise ConfigError(f"method.weight_decay: must be finite and at least 0; got {self.method.weight_decay}.")
        if not self.measure.rtol > 0:
            raise ConfigError(f"measure.rtol: must be positive; got {self.measure.rtol}.")
        if not self.stop.divergence > 1:
            raise ConfigError(f"stop.divergence: must be above 1; got {self.stop.divergence}.")
        check_number("checkpoint_seconds:", self.checkpoint_seconds, lambda seconds: seconds >= 0, "be at least 0")
        for name in ("problem", "method"):
            _check_size(name, msgspec.to_builtins(getattr(self, name)))
        # Building the rules checks their hyperparameters.
        _ = self.method.stability_threshold(), self.method.preconditioner

    def to_toml(self) -> str:
        """The configuration as TOML; `from_mapping` of its parse is equal to it."""
        return tomli_w.dumps(_without_none(msgspec.to_builtins(self)))


def load(path: Path) -> dict[str, Any]:
    """A configuration file as a mapping.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: must be a readable TOML file; {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, a number or a nesting beyond all bounds
        raise ConfigError(f"{path}: must be TOML; {error}.") from error


def from_mapping(mapping: Mapping[str, Any]) -> RunConfig:
    """A configuration from nested tables.

    Raises:
        ConfigError: a key is unknown (with the nearest known one), a value of the wrong type or out of range.
    """
    _check_names(mapping)
    try:
        return msgspec.convert(mapping, RunConfig)
    except msgspec.ValidationError as error:
        # msgspec wraps what a rule's own check raised; that message already says it all.
        if isinstance(error.__cause__, ConfigError):
            raise error.__cause__ from None
        raise ConfigError(_explain(str(error), mapping)) from error


def recipe_from(name: str, options: Mapping[str, Any]) -> Recipe:
    """A method from its name and hyperparameters, numbers or their text; without an `lr` it is 1.

    Raises:
        ConfigError: as `from_mapping`.
    """
    table = {key: _value(value) if isinstance(value, str) else value for key, value in options.items()}
    run = {"problem": {"name": "quadratic"}, "method": {"name": name, "lr": 1.0, **table}}
    return from_mapping(run).method


def override(mapping: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """The mapping with settings `path=value` put in; a bare key such as `lr` is looked for in every table.

    Values are read as TOML where they are TOML, as text elsewhere.

    Raises:
        ConfigError: a setting is not `key=value`, or its key is in no table, or in several.
    """
    result: dict[str, Any] = msgspec.to_builtins(mapping)
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set: must be key=value; got '{setting}'. Example: --set lr=1e-4")
        *tables, leaf = _full_path(key.strip(), result)
        table = result
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {key}: {name} must be a table to set something in it; got {table!r}.")
        value = _value(text.strip())
        table[leaf] = _named(value, table.get(leaf)) if not tables and leaf in NAMED_TABLES else value
    return result


def _named(name: Any, former: Any) -> dict[str, Any]:
    """`--set method=rmsprop` picks another method by name; learning rate and decay stay as they were set."""
    settings = former if isinstance(former, Mapping) else {}
    return {"name": name, **{key: settings[key] for key in ("lr", "weight_decay") if key in settings}}


def known_paths(mapping: Mapping[str, Any]) -> list[str]:
    """Every setting's dotted path, given which problem and method the mapping names.

    Raises:
        ConfigError: the problem or the method is not known.
    """
    paths = []
    for field in msgspec.structs.fields(RunConfig):
        table = _table_type(field.name, mapping)
        if table is None:
            paths.append(field.name)
        else:
            paths += [f"{field.name}.{name}" for name in _field_names(table)]
    return paths


def _table_type(name: str, mapping: Mapping[str, Any]) -> type[msgspec.Struct] | None:
    """The Struct behind a table of the configuration, or None for a plain setting."""
    fixed: dict[str, type[msgspec.Struct]] = {"measure": MeasureConfig, "stop": StopConfig}
    named: dict[str, Mapping[str, type[msgspec.Struct]]] = {
        "problem": PROBLEMS,
        "method": RECIPES,
        "schedule": {str(kind.__struct_config__.tag): kind for kind in typing.get_args(AnySchedule)},
    }
    if name in fixed:
        return fixed[name]
    if name not in named:
        return None
    kinds, table = named[name], mapping.get(name, {})
    kind = table.get("name") if isinstance(table, Mapping) else table
    if kind is None and name == "schedule":
        return Constant
    if kind is None:
        raise ConfigError(f"{name}.name: must be given. Known: {', '.join(sorted(kinds))}.")
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"{name}.name: '{kind}' is not known. {did_you_mean(str(kind), kinds)}")
    return kinds[kind]


def _field_names(table: type[msgspec.Struct]) -> list[str]:
    names = [field.name for field in msgspec.structs.fields(table)]
    return ["name", *names] if table.__struct_config__.tag is not None else names


def _check_names(mapping: Mapping[str, Any]) -> None:
    """Raise at the first unknown key, with the nearest known one."""
    tables = [field.name for field in msgspec.structs.fields(RunConfig)]
    for key, value in mapping.items():
        if key not in tables:
            raise ConfigError(f"{key}: not a setting. {did_you_mean(key, tables)}")
        table = _table_type(key, mapping)
        if table is not None and isinstance(value, Mapping):
            known = _field_names(table)
            unknown = next((name for name in value if name not in known), None)
            if unknown is not None:
                raise ConfigError(f"{key}.{unknown}: not a setting. {did_you_mean(unknown, known)}")


def _full_path(key: str, mapping: Mapping[str, Any]) -> list[str]:
    """The dotted path a key of `--set` means: itself, or the one setting whose last part it is."""
    paths = known_paths(mapping)
    if key in paths or key in NAMED_TABLES:
        return key.split(".")
    found = [path for path in paths if path.endswith(f".{key}")]
    if len(found) == 1:
        return found[0].split(".")
    if found:
        raise ConfigError(f"--set {key}: could mean {' or '.join(found)}; write the one you mean.")
    if _is_below_a_rule(key, paths):
        return key.split(".")
    leaves = [path.split(".")[-1] for path in paths]
    raise ConfigError(f"--set {key}: not a setting. {did_you_mean(key, [*paths, *leaves])}")


def _is_below_a_rule(key: str, paths: Iterable[str]) -> bool:
    """Whether a key reaches into a rule of a custom method, such as method.momentum_rule.beta."""
    return any(path.endswith("_rule") and key.startswith(f"{path}.") for path in paths)


def _value(text: str) -> Any:
    """The text read as TOML, and as it is where it is none; TOML has no `1.`, `.5` or `True`, people do."""
    if re.fullmatch(r"[+-]?(\d+\.|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE):
        return float(text)
    if text in ("True", "False"):
        return text == "True"
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _check_size(path: str, value: Any) -> None:
    """Raise where a number is finite but too large to carry through a step, or to build."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            _check_size(f"{path}.{name}", part)
    elif isinstance(value, list | tuple):
        for part in value:
            _check_size(path, part)
    elif isinstance(value, int | float):
        largest = LARGEST_COUNT if isinstance(value, int) else LARGEST
        if largest < abs(value) < math.inf:
            raise ConfigError(f"{path}: numbers must be at most {largest:g} in size; got {value!r:.40}.")


def _explain(message: str, mapping: Mapping[str, Any]) -> str:
    """msgspec's message with the setting first: 'method.lr: Expected `float`, got `str`'."""
    text, _, where = message.partition(" - at `$")
    path = where.rstrip("`").lstrip(".")
    value: Any = mapping
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    got = f" (the value is {value!r})" if path and value is not None else ""
    return f"{path}: {text}{got}." if path else f"configuration: {text}."


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(part) for key, part in value.items() if part is not None}
    return value
