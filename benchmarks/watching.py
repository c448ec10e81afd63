"""The three examples under watch: what it costs at budgets of 1, 3 and 10 %, and how long a reading holds at 3 %.

The true ratio is taken at every fifth step of a run of its own, on the examples that the reading was of and without any
budget; that a watched run is bit for bit the unwatched one makes the two the same run. Each reading is held until the
next, and the error is the median over all of those steps from the first reading to the end.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from tightrope.monitor.hooks import StepHooks
from tightrope.monitor.probe_set import ProbeSet
from tightrope.monitor.reading import Reader

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("TIGHTROPE_DATA") or ROOT.parent / "shared" / "data")
IMAGES = DATA / "cifar10-5k.npz"
EXAMPLES = {"char_gpt": (), "cifar_cnn": ("--data", IMAGES) if IMAGES.exists() else (), "lora": ()}
"""With what each is called; without CIFAR's images the network trains on digits."""
BUDGETS = (0.01, 0.03, 0.10)
SLACK = 0.005
NUM_READINGS = {0.01: 5, 0.03: 20, 0.10: 20}
JUDGED, MAX_ERROR = 0.03, 0.10
"""The budget whose readings are held against the truth."""
STRIDE = 5


class Truth:
    """Takes a watcher's place in an example and measures at every `STRIDE`-th step, as exactly as a reading can be.

    Args:
        share: Of the probe set to measure on.
    Attributes:
        ratios: By step.
    """

    def __init__(self, share: float) -> None:
        self.share, self.run_dir, self.overhead = share, None, 0.0
        self.ratios: dict[int, float] = {}

    def watch(
        self, model: Any, optimizer: Any, loss_fn: Any, *, probe: Any, clip_norm: Any = None, **unused: Any
    ) -> Any:
        self.hooks = StepHooks(optimizer, lambda step: step % STRIDE == 0, lambda where: contextlib.nullcontext())
        self.hooks.wants_step = True
        self.reader = Reader(model, loss_fn, clip_norm=clip_norm, names={}, rtol=0.02)
        self.reader.has_sharpness = self.reader.has_plain = False
        self.data, self.optimizer = ProbeSet.of(probe).part(self.share, torch.device("cpu")), optimizer
        return self

    def step(self, batch: Any, loss: Any) -> None:
        captured, self.hooks.captured = self.hooks.captured, None
        if captured is not None:
            lrs = [group["lr"] for group in self.optimizer.param_groups]
            reading = self.reader.read(captured, self.data, batch, lrs, is_minibatch=True, is_same_data=True)
            self.ratios[captured.step] = reading.measurement.ratio

    def close(self) -> None:
        self.hooks.remove()


def trained(name: str, *arguments: Any, watch: Any = None) -> float:
    """The final loss of an example, run here and silently; `watch` takes the place of tightrope's."""
    if str(ROOT / "examples") not in sys.path:
        sys.path.insert(0, str(ROOT / "examples"))
    example = importlib.import_module(name)
    import tightrope

    example.tr = tightrope if watch is None else SimpleNamespace(watch=watch)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return float(example.main([*map(str, EXAMPLES[name]), *map(str, arguments)]))


def watched(name: str, budget: float, folder: Path) -> tuple[float, dict[str, Any], list[dict[str, Any]]]:
    """Final loss, last event and readings of an example under a budget."""
    loss = trained(name, "--budget", budget, "--run-dir", folder)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return loss, events[-1], [event for event in events if event["type"] == "measurement"]


def held(readings: list[dict[str, Any]], truth: dict[int, float]) -> float:
    """Median relative error of the last reading, over the steps of the truth from the first reading on."""
    at, values = [r["step"] for r in readings], [r["ratio"] for r in readings]
    steps = [step for step in truth if step >= at[0]]
    last = np.searchsorted(at, steps, side="right") - 1
    return float(np.median([abs(values[i] / truth[step] - 1) for i, step in zip(last, steps, strict=True)]))


def restlessness(truth: dict[int, float]) -> float:
    """Median relative change of the true ratio in `STRIDE` steps: what no reading that is held can do without."""
    ratios = list(truth.values())
    return float(np.median([abs(a / b - 1) for a, b in pairwise(ratios)]))


def needed(truth: dict[int, float]) -> int:
    """Steps from one reading to the next at which what is held is wrong by `MAX_ERROR` in the median."""
    ratios = np.array(list(truth.values()))
    every = 1
    while every < len(ratios):
        last = ratios[np.arange(len(ratios)) // (every + 1) * (every + 1)]
        if np.median(np.abs(last / ratios - 1)) > MAX_ERROR:
            break
        every += 1
    return STRIDE * every


def rows(name: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        runs = {budget: watched(name, budget, Path(folder, str(budget))) for budget in BUDGETS}
    _, _, readings = runs[JUDGED]
    truth = Truth(readings[0]["probe_share"])
    loss = trained(name, watch=truth.watch)
    true = {step: ratio for step, ratio in truth.ratios.items() if step >= readings[0]["step"]}
    assert all(loss == watched_loss for watched_loss, _, _ in runs.values()), "the runs are not the same run"
    for budget, (_, end, readings) in runs.items():
        share = f"{100 * readings[0]['probe_share']:.0f} %" if readings else "-"
        error, columns = None, ["-", "-", "-"]
        if budget == JUDGED:
            error = held(readings, true)
            columns = [f"{100 * error:.1f} %", f"{100 * restlessness(true):.1f} %", f"{needed(true)} steps"]
        overhead = end["measuring_seconds"] / end["seconds"]
        is_dear, is_rare = overhead > budget + SLACK, len(readings) < NUM_READINGS[budget]
        is_off = error is not None and not error <= MAX_ERROR
        first = readings[0]["step"] if readings else "-"
        length = f"{end['step']:,} in {end['seconds']:.0f} s"
        of = [f"{100 * overhead:.2f} %", str(len(readings)), str(first), share, *columns]
        judged = "MISS" if is_dear or is_rare or is_off else "within"
        yield " | ".join([f"| {name}", length, f"{100 * budget:g} %", *of, judged])


def lines() -> Iterator[str]:
    torch.set_num_threads(1)
    yield "| example | steps | budget | spent | readings | first | of set | error held | in 5 steps | 10 % asks | |"
    yield "|---" * 11 + "|"
    for name in EXAMPLES:
        if name == "lora" and importlib.util.find_spec("peft") is None:
            yield "| lora | needs the extra transformers |"
            continue
        yield from rows(name)
