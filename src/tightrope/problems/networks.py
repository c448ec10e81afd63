"""What each named network on images leaves to choose, and what is chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

from tightrope.errors import ConfigError, check_count

from .models import ACTIVATIONS
from .problem import check_choice

MAX_BLOCKS = 1000
"""In a group; beyond, no machine holds the model."""


@dataclass(frozen=True)
class Design:
    """The sizes of a network; None for what it does not have, or what is left as it is.

    Attributes:
        hidden: Widths of the fully-connected layers before the last.
        activation: After each layer but the last.
        channels: Of each group of residual blocks.
        blocks: Residual blocks in a group.
    """

    hidden: tuple[int, ...] | None = None
    activation: str | None = None
    channels: tuple[int, ...] | None = None
    blocks: int | None = None


def decided(designs: Mapping[str, Design], model: str, choices: Design) -> Design:
    """The named network's own design with these choices put in.

    Raises:
        ConfigError: the name or the activation is unknown, the network has nothing of the kind, or a size is below 1.
    """
    check_choice("problem.model", model, designs)
    own = designs[model]
    made = {name: value for name, value in asdict(choices).items() if value is not None}
    for name, value in made.items():
        if getattr(own, name) is None:
            owners = ", ".join(f"'{other}'" for other, design in designs.items() if getattr(design, name) is not None)
            raise ConfigError(f"problem.{name}: '{model}' has none; got {value!r}. Leave it out: it is for {owners}.")
    for name in ("hidden", "channels"):
        if any(width < 1 for width in made.get(name, ())):
            raise ConfigError(f"problem.{name}: widths must be at least 1; got {list(made[name])}.")
    if made.get("channels") == ():
        raise ConfigError("problem.channels: there must be at least one group; got none.")
    if "activation" in made:
        check_choice("problem.activation", made["activation"], ACTIVATIONS)
    if "blocks" in made:
        check_blocks([made["blocks"]])
    return replace(own, **made)


def check_blocks(counts: Iterable[int]) -> None:
    """Raise unless each group can have so many blocks.

    Raises:
        ConfigError: as said.
    """
    for count in counts:
        check_count("problem.blocks:", count)
        if count > MAX_BLOCKS:
            raise ConfigError(f"problem.blocks: must be at most {MAX_BLOCKS}; got {count}.")
