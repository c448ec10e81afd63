"""What a run will cost is told from what it will do: its measurements are counted as the loop makes them."""

import importlib

import msgspec
import pytest

from tightrope.optim import RECIPES
from tightrope.problems import Chebyshev
from tightrope.studies import Case, forecast
from tightrope.studies.forecast import _num_measurements
from tightrope.training import FreezeConfig, MeasureConfig, RunConfig, run

CONFIG = RunConfig(problem=Chebyshev(width=5), method=RECIPES["adam"](lr=1e-3), num_steps=40, dtype="float64")


@pytest.mark.parametrize(
    "measure",
    [
        MeasureConfig(every=7),
        MeasureConfig(every=0),
        MeasureConfig(every=0, at_end=True),
        MeasureConfig(every=10, window=(5, 12)),
        MeasureConfig(every=0, window=(5, 12), at_loss=1e9),
    ],
)
def test_as_many_measurements_are_foreseen_as_are_made(measure, tmp_path):
    config = msgspec.structs.replace(CONFIG, measure=measure)
    record = run(config, out=tmp_path / "run")
    assert _num_measurements(config) == len(record.measurements["step"])


def test_a_run_whose_p_is_frozen_late_is_probed_without_that_and_counts_the_steps_before():
    restarted = FreezeConfig(after=100_000, restart=True)
    plain, frozen, halfway = (
        forecast([Case("run", msgspec.structs.replace(CONFIG, num_steps=400, freeze=freeze))])
        for freeze in (None, restarted, FreezeConfig(after=300))
    )
    assert frozen.seconds > 20 * plain.seconds
    assert halfway.seconds < 10 * plain.seconds
    assert frozen.num_bytes < 2 * plain.num_bytes


def test_an_interrupt_from_the_terminal_ends_a_forecast(monkeypatch):
    def interrupted(config, *, out, observe):
        def press(progress):
            observe(progress)
            if progress.step == 3:
                raise KeyboardInterrupt

        return run(config, out=out, observe=press)

    module = importlib.import_module("tightrope.studies.forecast")
    monkeypatch.setattr(module, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        forecast([Case("run", CONFIG)])
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.0)  # the clock's own end comes first, at step 2
    assert forecast([Case("run", CONFIG)]).num_runs == 1
