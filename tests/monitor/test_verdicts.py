"""What is said of a run from reading to reading: the edge is no alarm, growth is one, and a moment is no news."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tightrope.monitor import Sink, watch
from tightrope.optim import freeze
from tightrope.stability import Measurement, Persistence, floored, verdict
from tightrope.store import read_events

from .loops import batches, cross_entropy


class Alerts(Sink):
    def __init__(self):
        self.steps = []

    def log(self, step, numbers):
        pass

    def alert(self, step, title, words):
        self.steps.append(step)

    def close(self):
        pass


class Bowl(nn.Module):
    """Curvature 1 along one coordinate and 0.1 along the other."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.1, 1.0]))


def bowl(model, batch):
    return (torch.tensor([1.0, 0.1]) * model.w**2).sum() / 2 + 0 * batch.sum()


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def descended(rates, every=5, sinks=()):
    """Gradient descent in the bowl with each of these learning rates in turn; its edge is at 2."""
    model = Bowl()
    optimizer = torch.optim.SGD(model.parameters(), lr=rates[0])
    with watch(model, optimizer, bowl, every=every, run_dir="run", sinks=sinks) as watcher:
        for rate in rates:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            loss = bowl(model, torch.zeros(1))
            loss.backward()
            optimizer.step()
            watcher.step(torch.zeros(1), loss)


def names():
    return [event["verdict"] for event in read_events("run") if event["type"] == "measurement"]


def run_verdict():
    return next(event for event in read_events("run") if event["type"] == "verdict")


def said(capsys):
    """The verdicts and causes printed, without the first two lines."""
    return [line.removeprefix("tightrope: ") for line in capsys.readouterr().err.splitlines()[2:]]


def judged(*readings, every=5, **more):
    """Names of readings given as (ratio, loss)."""
    seen, found = Persistence(), []
    for number, (ratio, loss) in enumerate(readings, 1):
        m = Measurement("converged", ratio=ratio, residual=0.01, loss=loss)
        found.append(seen.judged(verdict(m, 100), m, every * number, **more).name)
    return found


def test_one_reading_beyond_the_edge_is_no_alarm_if_the_next_falls_back(capsys):
    alerts = Alerts()
    descended([1.0] * 10 + [2.6] * 5 + [1.0] * 25, sinks=(alerts,))
    assert names() == ["stable"] * 2 + ["undecided"] + ["stable"] * 5
    assert alerts.steps == []
    assert len(said(capsys)) == 1
    assert run_verdict()["name"] == "stable"


def test_growth_is_named_and_alerted_once_it_has_lasted_and_told_with_its_cause(capsys):
    alerts = Alerts()
    descended([0.8] * 20 + [2.6] * 25, sinks=(alerts,))
    assert names() == ["stable"] * 4 + ["undecided"] * 2 + ["unstable"] * 3
    assert alerts.steps == [35]
    first, cause, growth = said(capsys)
    assert first.startswith("step 5: stable.")
    assert cause.startswith("step 25: The ratio went from 0.4 at step 15 to 1.3: the learning rate rose 3.25 times")
    assert growth.startswith("step 35: unstable. ratio 1.3")
    assert "beyond the edge since step 25" in growth
    assert run_verdict()["name"] == "unstable"


def test_growth_inside_the_band_of_the_edge_is_seen_by_the_loss():
    descended([0.5] * 10 + [2.2] * 60)
    assert names()[3] == "at the edge"
    assert names()[-1] == "unstable"
    assert run_verdict()["words"] == "SGD is beyond its edge and grows; the last ratio measured is 1.1, at step 70."


def test_a_run_that_diverged_is_called_unstable_however_few_its_readings():
    descended([0.5] * 21 + [50.0] * 39, every=20)
    assert "unstable" not in names()
    assert run_verdict()["name"] == "unstable"
    assert "diverged" in run_verdict()["words"]


def test_a_run_whose_last_loss_is_not_finite_has_diverged_though_its_weights_are():
    descended([0.5] * 21 + [50.0] * 18, every=20)
    assert names() == ["stable"]
    assert not any(event.get("what") == "weight" for event in read_events("run"))
    assert run_verdict()["words"].startswith("SGD diverged")


def test_readings_close_together_must_be_beyond_the_edge_for_ten_steps():
    assert judged(*[(1.3, 1.0)] * 10, every=1) == ["undecided"] * 10
    assert judged(*[(1.3, 1.0)] * 11, every=1) == ["undecided"] * 10 + ["unstable"]
    assert judged(*[(1.3, 1.0)] * 9, (1.1, 1.0), *[(1.3, 1.0)] * 9, every=1).count("unstable") == 0
    assert judged((1.3, 1.0), (1.3, 1.0), every=50) == ["undecided", "unstable"]


def test_a_loss_that_grew_tenfold_needs_no_wait_where_the_data_are_the_same():
    assert judged((0.9, 1.0), (0.8, 1.0), (1.3, 11.0))[-1] == "unstable"
    assert judged((0.9, 1.0), (0.8, 1.0), (1.3, 9.0))[-1] == "undecided"
    assert judged((0.9, 1.0), (0.8, 1.0), (1.3, 11.0), is_same_data=False)[-1] == "undecided"
    assert judged((0.9, 1.0), (0.8, 1.0), (1.3, 101.0), is_same_data=False)[-1] == "unstable"
    assert judged((0.8, 1.0), (0.95, 11.0))[-1] == "at the edge"
    assert judged((0.8, 1.0), (1.1, 2.0), (1.1, 11.0))[-1] == "unstable"
    assert judged((1.3, 1.0), (1.3, 11.0)) == ["undecided", "unstable"]


def test_a_reading_without_a_ratio_changes_nothing():
    nan = (math.nan, math.nan)
    assert judged((1.3, 1.0), nan, (1.3, 1.0)) == ["undecided", "undecided", "unstable"]


def test_a_run_that_goes_back_and_forth_across_a_border_is_not_told_of_each_time(capsys):
    descended(([1.0] * 5 + [2.0] * 5) * 6)
    assert names() == ["stable", "at the edge"] * 6
    [line] = said(capsys)
    assert line.startswith("step 5: stable.")


def test_a_change_that_lasts_for_two_readings_is_told_at_the_second_with_its_cause(capsys):
    descended([1.0] * 20 + [2.0] * 20 + [1.0] * 15)
    lines = said(capsys)
    starts = ["step 5: stable.", "step 25: The ratio went from 0.5", "step 30: at the edge.", "step 50: stable."]
    assert len(lines) == len(starts)
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))


def test_a_learning_rate_that_decays_to_zero_ends_a_run_short_of_its_edge():
    num = 120
    late = [2.0 * (1 + math.cos(math.pi * max(t - num / 2, 0) / (num / 2))) / 2 for t in range(num)]
    descended([1.0] * 10 + late, every=7)
    assert run_verdict()["name"] == "stable"


def test_where_most_units_are_dead_the_floor_rests_on_those_that_live():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    with torch.no_grad():
        model[0].bias[:24] = -100.0
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for batch in batches(30):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
    frozen = freeze(optimizer)
    alive = frozen.P[frozen.P > 1e-6]
    assert len(alive) < frozen.P.numel() / 2
    held, num_dormant = floored(frozen)
    assert num_dormant >= frozen.P.numel() - len(alive)
    assert float(held.P.min()) == pytest.approx(0.1 * float(alive.median()))
