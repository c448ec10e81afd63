"""A method that is not ours: any torch optimizer by the place it is imported from, with what it is called with."""

from __future__ import annotations

import hashlib
import inspect
import keyword
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import torch

from tightrope.errors import ConfigError, one_line
from tightrope.targets import find, split_target

from .recipe import Recipe

Option = bool | int | float | str | list[Any]


class ForeignRecipe(Recipe, frozen=True, kw_only=True, tag="foreign"):
    """An optimizer class or factory, called as `Name(params, lr=lr, **options)`.

    What it does is found by `freeze` while it trains; nothing is known of it before. Lists among the options reach it
    as tuples.

    Attributes:
        path: `pkg.mod:Name` or `path/to/file.py:Name`.
        options: What else it is called with, plain values by keyword.
    """

    path: str
    options: dict[str, Option] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        # Two tables that differ in their order only are one method, and one run.
        msgspec.structs.force_setattr(self, "options", dict(sorted(self.options.items())))

    @property
    def label(self) -> str:
        return self.path.rpartition(":")[2]

    @property
    def formula(self) -> str:
        return "read from the optimizer at each measurement"

    @property
    def is_adaptive(self) -> bool:
        return True

    @property
    def needs_shapes(self) -> bool:
        return True

    @property
    def constant_threshold(self) -> float | None:
        return None

    @property
    def code(self) -> str:
        try:
            file = inspect.getsourcefile(inspect.unwrap(self._make()))
        except TypeError:  # made by no file
            return ""
        return hashlib.blake2b(Path(file).read_bytes(), digest_size=8).hexdigest() if file else ""

    def check(self) -> None:
        split_target(self.path, "method.path")
        for name in self.options:
            if not name.isidentifier() or keyword.iskeyword(name) or name in ("params", "lr"):
                raise ConfigError(
                    f"method.options: must be keywords beside params and lr; got '{name}'. The learning rate is "
                    "method.lr."
                )

    def build(self, params: Iterable[Any]) -> torch.optim.Optimizer:
        make = self._make()
        options = {name: _tupled(value) for name, value in self.options.items()}
        try:
            optimizer = make(list(params), lr=self.lr, **options)
        except (Exception, SystemExit) as error:
            given = ", ".join(["params", f"lr={self.lr:g}", *(f"{k}={v!r}" for k, v in options.items())])
            raise ConfigError(
                f"method.path: {self.label}({given}) must make an optimizer; it raised {_words(error)}. Correct "
                "method.options."
            ) from error
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ConfigError(
                f"method.path: {self.path} must make a torch.optim.Optimizer; got {type(optimizer).__name__}."
            )
        if any("lr" not in group for group in optimizer.param_groups):
            raise ConfigError(f"method.path: the groups of {self.label} must hold their 'lr'; they do not.")
        return optimizer

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let it take a step.

        Raises:
            ConfigError: the step fails.
        """
        try:
            optimizer.step()
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"method.path: {self.label} must take a step without arguments; it raised {_words(error)}."
            ) from error

    def _make(self) -> Callable[..., Any]:
        try:
            make = find(self.path, "method.path")
        except ConfigError:
            raise
        except (Exception, SystemExit) as error:
            raise ConfigError(f"method.path: importing {self.path} must succeed; it raised {_words(error)}.") from error
        if not callable(make):
            raise ConfigError(
                f"method.path: {self.path} must be an optimizer class or what makes one; got {type(make).__name__}."
            )
        found: Callable[..., Any] = make
        return found


def _tupled(value: Any) -> Any:
    return tuple(_tupled(part) for part in value) if isinstance(value, list) else value


def _words(error: BaseException) -> str:
    line = one_line(str(error))
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
