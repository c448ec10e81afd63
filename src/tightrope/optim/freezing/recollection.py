"""Recollection: what probing has found of an optimizer, so that a process that takes its run up goes on with it.

Found anew from a later step it would be the same method with other last digits.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor

from ..momentum import Momentum
from .identification import GroupFinding
from .probing import FOUND, REFUSED, Findings, Refusal


@dataclass(frozen=True)
class Recollection:
    """What is remembered of one optimizer that was probed; all None of one that was not.

    Attributes:
        findings, scale: Its method, and the size of gradients to ask with, (p,).
        refusal: Why it has none.
    """

    findings: dict[str, Any] | None = None
    scale: Tensor | None = None
    refusal: dict[str, Any] | None = None

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> Recollection:
        """What is remembered of an optimizer now."""
        known, refused = FOUND.get(optimizer), REFUSED.get(optimizer)
        return cls(
            None if known is None else _plain(known),
            None if known is None else known.scale,
            None if refused is None else asdict(refused),
        )

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dict of plain values and a tensor."""
        return vars(self)

    def give(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer be known by this."""
        if self.findings is not None and self.scale is not None:
            FOUND[optimizer] = _found(self.findings, self.scale)
        if self.refusal is not None:
            REFUSED[optimizer] = Refusal(**self.refusal)


def _plain(known: Findings) -> dict[str, Any]:
    groups = [[msgspec.to_builtins(each.momentum), each.weight_decay, each.is_decoupled] for each in known.groups]
    return {"names": [list(name) for name in known.names], "memory": known.memory, "groups": groups}


def _found(plain: dict[str, Any], scale: Tensor) -> Findings:
    groups = tuple(
        GroupFinding(msgspec.convert(momentum, Momentum), decay, is_decoupled)
        for momentum, decay, is_decoupled in plain["groups"]
    )
    return Findings(tuple(tuple(name) for name in plain["names"]), plain["memory"], scale, groups)
