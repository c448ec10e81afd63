"""From text to a checked configuration: TOML files, `--set` paths, and errors that name the nearest known setting."""

from __future__ import annotations

import difflib
import re
import tomllib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from tightrope.errors import ConfigError, did_you_mean
from tightrope.optim import (
    RECIPES,
    RMS,
    Accumulated,
    AnyClipping,
    AnySchedule,
    Constant,
    Factored,
    Identity,
    Momentum,
    Recipe,
    SharpnessAware,
)
from tightrope.problems import PROBLEMS

from .config import FreezeConfig, MeasureConfig, RunConfig, StopConfig

Kind = type[msgspec.Struct]


def _by_name(union: Any) -> dict[str, Kind]:
    return {str(kind.__struct_config__.tag): kind for kind in typing.get_args(union)}


TABLES: dict[str, Kind] = {"measure": MeasureConfig, "stop": StopConfig, "sam": SharpnessAware, "freeze": FreezeConfig}
"""Tables that hold always the same settings."""
NAMED_TABLES: dict[str, Mapping[str, Kind]] = {
    "problem": PROBLEMS,
    "method": RECIPES,
    "schedule": _by_name(AnySchedule),
    "clipping": _by_name(AnyClipping),
}
"""Tables whose `name` picks what else they hold; `--set method=adam` names them by it."""
RULES: dict[str, Mapping[str, Kind]] = {
    "momentum_rule": {"momentum": Momentum},
    "preconditioner_rule": _by_name(Identity | RMS | Accumulated | Factored),
}
"""Tables inside a custom method."""
OPTIONAL = {"schedule", "clipping", "sam", "freeze"}
MOST_NEAR = 5
"""So many settings at most are offered for one that is misspelt."""


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
    """Every setting's dotted path, given what the mapping's tables name.

    Raises:
        ConfigError: the problem or another named table is not known.
    """
    paths = []
    for field in msgspec.structs.fields(RunConfig):
        table = _table_type(field.name, mapping)
        if table is None:
            paths.append(field.name)
        else:
            paths += [f"{field.name}.{name}" for name in _field_names(table)]
    return paths


def _table_type(name: str, mapping: Mapping[str, Any]) -> Kind | None:
    """The Struct behind a table of the configuration, or None for a plain setting or an optional table left out."""
    if name not in NAMED_TABLES:
        return TABLES.get(name)
    kinds, table = NAMED_TABLES[name], mapping.get(name, {})
    kind = table.get("name") if isinstance(table, Mapping) else table
    if kind is None and name in OPTIONAL:
        return Constant if name == "schedule" else None
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
            _check_table(key, table, value)


def _check_table(path: str, table: Kind, value: Mapping[str, Any]) -> None:
    known = _field_names(table)
    for name, part in value.items():
        if name not in known:
            raise ConfigError(f"{path}.{name}: not a setting. {did_you_mean(str(name), known)}")
        if name in RULES and isinstance(part, Mapping):
            _check_table(f"{path}.{name}", _rule_type(f"{path}.{name}", RULES[name], part), part)


def _rule_type(path: str, kinds: Mapping[str, Kind], part: Mapping[str, Any]) -> Kind:
    """Which of the rules a table holds: the only one there is, or the one it names."""
    if len(kinds) == 1:
        return next(iter(kinds.values()))
    name = part.get("name")
    if name is None:
        raise ConfigError(f"{path}.name: must be given. Known: {', '.join(sorted(kinds))}.")
    if not isinstance(name, str) or name not in kinds:
        raise ConfigError(f"{path}.name: '{name}' is not known. {did_you_mean(str(name), kinds)}")
    return kinds[name]


def _full_path(key: str, mapping: Mapping[str, Any]) -> list[str]:
    """The dotted path a key of `--set` means: itself, or the one setting whose last part it is."""
    paths = known_paths(mapping)
    if key in paths or key in NAMED_TABLES:
        return key.split(".")
    # A short name means a table that is there: `every` is measure.every in a run without [sam].
    present = [path for path in paths if path.split(".")[0] not in OPTIONAL - set(mapping)]
    found = [path for path in present if path.endswith(f".{key}")] or [p for p in paths if p.endswith(f".{key}")]
    if len(found) == 1:
        return found[0].split(".")
    if found:
        raise ConfigError(f"--set {key}: could mean {' or '.join(found)}; write the one you mean.")
    if _is_below_a_table(key, paths):
        return key.split(".")
    table, _, leaf = key.partition(".")
    if table in OPTIONAL & set(NAMED_TABLES) and leaf:
        if leaf == "name":
            return [table, leaf]
        raise ConfigError(
            f"--set {key}: [{table}] must be named before its settings. Set {table}=NAME first, NAME one of "
            f"{', '.join(sorted(NAMED_TABLES[table]))}."
        )
    raise ConfigError(f"--set {key}: not a setting. {_meant(key, paths)}")


def _meant(key: str, paths: Iterable[str]) -> str:
    """The nearest settings, best first; where none is near, those outside the tables, and the tables there are."""
    names = {name for path in paths for name in (path, path.rpartition(".")[2])}
    near = difflib.get_close_matches(key.lower(), sorted(names), n=MOST_NEAR, cutoff=0.6)
    if near:
        *others, last = (f"'{name}'" for name in near)
        return f"Did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
    tables = [name for name in dict.fromkeys(path.partition(".")[0] for path in paths) if name in TABLES | NAMED_TABLES]
    plain = [path for path in paths if "." not in path and path not in tables]
    return f"Known: {', '.join(plain)}, and those of the tables {', '.join(tables)}, as measure.every."


def _is_below_a_table(key: str, paths: Iterable[str]) -> bool:
    """Whether a key reaches into a rule of a custom method or the options of a foreign one, as method.options.eps."""
    return any(path.endswith(("_rule", ".options")) and key.startswith(f"{path}.") for path in paths)


def _value(text: str) -> Any:
    """The text read as TOML, and as it is where it is none; TOML has no `1.`, `.5` or `True`, people do."""
    if re.fullmatch(r"[+-]?(\d+\.|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE):
        return float(text)
    if text in ("True", "False"):
        return text == "True"
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    # Text of several lines could be more settings than the one.
    return table["value"] if len(table) == 1 else text


def _explain(message: str, mapping: Mapping[str, Any]) -> str:
    """msgspec's message with the setting first: 'method.lr: Expected `float`, got `str`'."""
    text, _, where = message.partition(" - at `$")
    path = where.rstrip("`").lstrip(".")
    value: Any = mapping
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    got = f" (the value is {value!r})" if path and value is not None else ""
    return f"{path}: {text}{got}." if path else f"configuration: {text}."
