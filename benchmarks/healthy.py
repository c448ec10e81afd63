"""Verdicts of 20 healthy runs under watch, none of which may be `unstable`, and of 5 that grow, all of which must be.

Every run is watched with fixed steps between its readings, about 20 to a run, as a step of a millisecond pays for
none; the three marked "budget" have three tenths of the time instead. A healthy run ends with a lower loss than it
began with. Of one that grows the steps are told at which it was changed for the worse, was first called `unstable`, and
had its loss tenfold: the second reading from there on must call it so at the latest, as a first knows of none before.
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

import tightrope as tr
from tightrope.problems import Digits
from tightrope.store import read_events

BLOWN_UP = 10.0
"""Times the loss at the change: the run has blown up."""

Data = tuple[Tensor, Tensor]


def digits(num: int = 1797) -> Data:
    """Images of so many digits, and which they are."""
    x, y = Digits().build(0, torch.float32).batch
    classes = y.argmax(1) if y.ndim == 2 else y
    return x[:num].float(), classes[:num]


def random_features(num: int = 256, size: int = 20) -> Data:
    """A regression that can be solved, whose features have scales from 1 down to 0.05."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(num, size, generator=generator) * torch.logspace(0, math.log10(0.05), size)
    return x, x @ torch.randn(size, 1, generator=generator)


def half_square(model: nn.Module, batch: Data) -> Tensor:
    x, y = batch
    return (model(x) - y).square().sum() / (2 * len(x))


def one_hot_square(model: nn.Module, batch: Data) -> Tensor:
    x, y = batch
    return half_square(model, (x, nn.functional.one_hot(y, 10).to(x)))


def cross_entropy(model: nn.Module, batch: Data) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def network(activation: type[nn.Module] = nn.ReLU, width: int = 64, *, has_norm: bool = False) -> nn.Module:
    norm = [nn.BatchNorm1d(width)] if has_norm else []
    return nn.Sequential(
        nn.Linear(64, width), *norm, activation(), nn.Linear(width, width), activation(), nn.Linear(width, 10)
    )


def with_dead_units() -> nn.Module:
    """A quarter of the first layer's ReLU units is never active, and another hardly ever."""
    model = network()
    with torch.no_grad():
        model[0].bias[:16] = -10.0
        model[0].bias[16:32] = -0.8
    return model


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        kind: What it is an example of.
        method, settings: The optimizer.
        model, data, loss_fn: What it trains.
        num_steps: It takes.
        batch_size: Of minibatches; None for the whole data.
        is_cosine: The learning rate decays to zero.
        budget: In place of fixed steps between readings, with a probe of 512 examples.
        change: What happens to the optimizer half-way, for the worse.
    """

    kind: str
    method: type[Optimizer]
    settings: dict[str, Any]
    num_steps: int = 400
    batch_size: int | None = None
    model: Callable[[], nn.Module] = network
    data: Callable[[], Data] = digits
    loss_fn: Callable[[nn.Module, Data], Tensor] = cross_entropy
    is_cosine: bool = False
    budget: float | None = None
    change: Callable[[Optimizer], None] | None = None


def few() -> Data:
    return digits(512)


def tanh() -> nn.Module:
    return network(nn.Tanh)


def normed() -> nn.Module:
    return network(has_norm=True)


def linear() -> nn.Module:
    return nn.Linear(20, 1)


EDGE: dict[str, Any] = {"kind": "full batch at the edge", "data": few, "loss_fn": one_hot_square}
DEAD: dict[str, Any] = {"kind": "minibatch, dead units", "model": with_dead_units}
LATE: dict[str, Any] = {"kind": "cross-entropy, late"}
COSINE: dict[str, Any] = {"kind": "cosine to zero", "is_cosine": True}
HEALTHY = (
    Run(**EDGE, method=SGD, settings={"lr": 0.3}, model=tanh, num_steps=1000),
    Run(**EDGE, method=SGD, settings={"lr": 0.2, "momentum": 0.9}, model=tanh, num_steps=1000),
    Run(**EDGE, method=Adam, settings={"lr": 3e-3, "betas": (0.9, 0.99)}, num_steps=1000),
    Run(**EDGE, method=RMSprop, settings={"lr": 3e-4}, model=tanh),
    Run(**EDGE, method=AdamW, settings={"lr": 1e-2, "betas": (0.9, 0.99)}, model=normed, num_steps=800),
    Run(**DEAD, method=Adam, settings={"lr": 1e-3}, batch_size=16, num_steps=1000),
    Run(**DEAD, method=AdamW, settings={"lr": 2e-3, "betas": (0.9, 0.95)}, batch_size=64, num_steps=800),
    Run(**DEAD, method=RMSprop, settings={"lr": 1e-3}, batch_size=32, num_steps=800),
    Run(**DEAD, method=SGD, settings={"lr": 0.1, "momentum": 0.9}, batch_size=64, num_steps=800),
    Run(**DEAD, method=Adam, settings={"lr": 1e-3}, batch_size=128, num_steps=3000, budget=0.3),
    Run(**LATE, method=Adam, settings={"lr": 1e-2}, data=few, num_steps=1500),
    Run(**LATE, method=SGD, settings={"lr": 0.5, "momentum": 0.9}, data=few, num_steps=1000),
    Run(**LATE, method=AdamW, settings={"lr": 5e-3, "weight_decay": 0.1}, batch_size=256, num_steps=1500),
    Run(**LATE, method=RMSprop, settings={"lr": 2e-3}, batch_size=128, num_steps=1500),
    Run(**LATE, method=SGD, settings={"lr": 0.1, "momentum": 0.9}, batch_size=32, num_steps=3000, budget=0.3),
    Run(**COSINE, method=AdamW, settings={"lr": 3e-3}, batch_size=64, num_steps=800),
    Run(**COSINE, method=Adam, settings={"lr": 1e-2}, data=few, num_steps=600),
    Run(**COSINE, method=SGD, settings={"lr": 0.5, "momentum": 0.9}, batch_size=128, num_steps=800, model=normed),
    Run(**COSINE, method=RMSprop, settings={"lr": 1e-3}, data=few),
    Run(**COSINE, method=AdamW, settings={"lr": 2e-3}, batch_size=64, num_steps=3000, budget=0.3),
)


def threefold(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        group["lr"] *= 3


def more_momentum(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        group["momentum"] = 0.9


def second_moment_lost(optimizer: Optimizer) -> None:
    """As after a stretch of small gradients, with a decay so slow that it is not filled up again before long."""
    for group in optimizer.param_groups:
        group["alpha"] = 0.999999
    for state in optimizer.state.values():
        state["square_avg"] *= 0.3


REGRESSION: dict[str, Any] = {"data": random_features, "model": linear, "loss_fn": half_square, "num_steps": 200}
GROWING = (
    Run("lr threefold", SGD, {"lr": 1.0}, change=threefold, **REGRESSION),
    Run("lr threefold", SGD, {"lr": 1.5, "momentum": 0.5}, change=threefold, **REGRESSION),
    Run("momentum 0.3 to 0.9", SGD, {"lr": 1.3, "momentum": 0.3, "nesterov": True}, change=more_momentum, **REGRESSION),
    Run("second moment lost", RMSprop, {"lr": 1e-2}, change=second_moment_lost, **REGRESSION),
    Run("lr far too large", SGD, {"lr": 3.0}, **REGRESSION),
)


@dataclass
class Seen:
    """What a run did and what was said of it."""

    losses: list[float] = field(default_factory=list)
    readings: list[dict[str, Any]] = field(default_factory=list)
    verdict: dict[str, Any] = field(default_factory=dict)
    printed: str = ""

    @property
    def unstable(self) -> list[int]:
        """Steps of the readings that were called so."""
        return [reading["step"] for reading in self.readings if reading["verdict"] == "unstable"]


def seen(run: Run, seed: int, num_readings: int = 20) -> Seen:
    """Train, watched."""
    torch.manual_seed(seed)
    model, (x, y), found = run.model(), run.data(), Seen()
    optimizer = run.method(model.parameters(), **run.settings)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.num_steps) if run.is_cosine else None
    probe = None if run.batch_size is None else (x[:512], y[:512])
    cadence: dict[str, Any] = {"budget": run.budget} if run.budget else {"every": run.num_steps // num_readings}
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(said):
        with tr.watch(model, optimizer, run.loss_fn, probe=probe, run_dir=Path(folder) / "run", **cadence) as watcher:
            for step in range(1, run.num_steps + 1):
                if step == run.num_steps // 2 and run.change is not None:
                    run.change(optimizer)
                rows = slice(None) if run.batch_size is None else torch.randint(len(x), (run.batch_size,))
                batch = x[rows], y[rows]
                optimizer.zero_grad()
                loss = run.loss_fn(model, batch)
                loss.backward()
                optimizer.step()
                if schedule is not None:
                    schedule.step()
                watcher.step(batch, loss)
                found.losses.append(loss.item())
        events = read_events(Path(folder) / "run")
    found.readings = [event for event in events if event["type"] == "measurement"]
    found.verdict = next(event for event in events if event["type"] == "verdict")
    found.printed = said.getvalue()
    return found


def lines() -> Iterator[str]:
    torch.set_num_threads(1)
    yield "| healthy run | method | batch | steps | readings | highest ratio | unstable | run verdict | |"
    yield "|---" * 9 + "|"
    for seed, run in enumerate(HEALTHY):
        found = seen(run, seed)
        top = max(float(reading["ratio"]) for reading in found.readings if reading["step"] > 10)
        batch = f"{run.batch_size or 'full'}{', budget' if run.budget else ''}"
        start, end = found.losses[0], sum(found.losses[-10:]) / 10
        is_fine = not found.unstable and found.verdict["name"] != "unstable" and end < start
        yield (
            f"| {run.kind} | {run.method.__name__} | {batch} | {run.num_steps} | {len(found.readings)} | {top:.3g} | "
            f"{len(found.unstable)} | {found.verdict['name']} | {'none' if is_fine else 'MISS'}"
        )
    yield "| growing run | method | changed at | named at | loss tenfold at | run verdict | |"
    yield "|---" * 7 + "|"
    for run in GROWING:
        yield _grown(run, seen(run, 0, num_readings=40))


def _grown(run: Run, found: Seen) -> str:
    changed = run.num_steps // 2 if run.change is not None else 1
    before = found.losses[changed - 1]
    blown = next((i for i, loss in enumerate(found.losses, 1) if i > changed and not loss < BLOWN_UP * before), None)
    named = next((step for step in found.unstable if step >= changed), None)
    latest = [reading["step"] for reading in found.readings if blown and reading["step"] >= blown][:2]
    is_fine = None not in (named, blown) and named <= latest[-1] and named == found.unstable[0]
    return (
        f"| {run.kind} | {run.method.__name__} | {changed} | {named} | {blown} | {found.verdict['name']} | "
        f"{'named' if is_fine else 'MISS'}"
    )
