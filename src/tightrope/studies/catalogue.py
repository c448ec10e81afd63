"""Every study the command line knows, by name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tightrope.errors import ConfigError, did_you_mean

from .paper import STUDIES as PAPER
from .study import Study


def _place(name: str) -> tuple[str, int, str]:
    letters, number, rest = re.fullmatch(r"([a-z]+)(\d+)(.*)", name).groups()  # type: ignore[union-attr]
    return letters, int(number), rest


STUDIES: dict[str, Study] = {name: PAPER[name] for name in sorted(PAPER, key=_place)}


def studies(names: Iterable[str]) -> list[Study]:
    """Studies by name, each once; "all" names all of them.

    Raises:
        ConfigError: there is none of a name, or no name.
    """
    names = list(dict.fromkeys(names))
    if not names:
        raise ConfigError(f"study: name at least one, or all. Known: {', '.join(STUDIES)}.")
    for name in names:
        if name != "all" and name not in STUDIES:
            raise ConfigError(f"study: '{name}' is not known. {did_you_mean(name, [*STUDIES, 'all'])}")
    return list(STUDIES.values()) if "all" in names else [STUDIES[name] for name in names]
