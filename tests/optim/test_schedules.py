"""Schedules against torch's where it has the same, and against the lessons' numbers."""

import math
from itertools import pairwise
from typing import Annotated, get_origin, get_type_hints

import msgspec
import pytest
import torch

from tightrope.errors import ConfigError
from tightrope.optim import (
    Constant,
    Cosine,
    InverseSquareRoot,
    LinearWarmup,
    OneCycle,
    StepDecay,
    WarmRestarts,
    WarmupStableDecay,
)

SCHEDULERS = torch.optim.lr_scheduler
EVERY = [
    Constant(),
    StepDecay(every=3, gamma=0.5),
    LinearWarmup(num_steps=7),
    Cosine(num_steps=20, num_warmup=4, floor=0.1),
    WarmRestarts(period=5, growth=2, floor=0.1),
    OneCycle(num_steps=20),
    WarmupStableDecay(num_warmup=3, num_stable=5, num_decay=7, floor=0.2),
    InverseSquareRoot(num_warmup=5),
]


def factors_of_torch(make, num_steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, seen = make(optimizer), []
    for _ in range(num_steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (StepDecay(every=4, gamma=0.3), lambda o: SCHEDULERS.StepLR(o, 4, 0.3)),
        (Cosine(num_steps=30, floor=0.1), lambda o: SCHEDULERS.CosineAnnealingLR(o, 30, eta_min=0.1)),
        (
            WarmRestarts(period=4, growth=2, floor=0.1),
            lambda o: SCHEDULERS.CosineAnnealingWarmRestarts(o, 4, T_mult=2, eta_min=0.1),
        ),
        (
            WarmRestarts(period=2, growth=3, floor=0.3),
            lambda o: SCHEDULERS.CosineAnnealingWarmRestarts(o, 2, T_mult=3, eta_min=0.3),
        ),
        (WarmRestarts(period=4, growth=1), lambda o: SCHEDULERS.CosineAnnealingWarmRestarts(o, 4)),
        (OneCycle(num_steps=30), lambda o: SCHEDULERS.OneCycleLR(o, 1.0, total_steps=30, cycle_momentum=False)),
        (
            OneCycle(num_steps=50, rise=0.5),
            lambda o: SCHEDULERS.OneCycleLR(o, 1.0, total_steps=50, pct_start=0.5, cycle_momentum=False),
        ),
        (
            OneCycle(num_steps=40, rise=0.2, start=0.1, end=0.01),
            lambda o: SCHEDULERS.OneCycleLR(
                o, 1.0, total_steps=40, pct_start=0.2, div_factor=10, final_div_factor=10, cycle_momentum=False
            ),
        ),
        (LinearWarmup(num_steps=5), lambda o: SCHEDULERS.LinearLR(o, 1 / 5, 1.0, 4)),
        (Constant(), lambda o: SCHEDULERS.ConstantLR(o, 1.0)),
        (StepDecay(every=1, gamma=0.9), lambda o: SCHEDULERS.ExponentialLR(o, 0.9)),
        (
            WarmupStableDecay(num_warmup=4, num_stable=6, num_decay=10, floor=0.1),
            lambda o: SCHEDULERS.SequentialLR(
                o,
                [SCHEDULERS.LinearLR(o, 1 / 4, 1.0, 3), SCHEDULERS.LinearLR(o, 1.0, 0.1, 10)],
                milestones=[10],
            ),
        ),
    ],
)
def test_a_schedule_equals_torchs_of_the_same_rule(schedule, make):
    num_steps = getattr(schedule, "num_steps", 30)
    assert [schedule(step) for step in range(num_steps)] == pytest.approx(factors_of_torch(make, num_steps), abs=1e-12)


@pytest.mark.parametrize("schedule", EVERY, ids=lambda schedule: type(schedule).__name__)
def test_a_schedule_drives_any_torch_optimizer_through_lambda_lr(schedule):
    seen = factors_of_torch(lambda optimizer: SCHEDULERS.LambdaLR(optimizer, schedule), 25)
    assert seen == pytest.approx([schedule(step) for step in range(25)])


@pytest.mark.parametrize("schedule", EVERY, ids=lambda schedule: type(schedule).__name__)
def test_a_schedule_stays_between_zero_and_one_for_ever(schedule):
    assert all(0 <= schedule(step) <= 1 + 1e-12 for step in [*range(200), 10**6])


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4])
def test_one_cycle_may_be_very_short(num_steps):
    schedule = OneCycle(num_steps=num_steps, rise=0.5)
    assert all(0 <= schedule(step) <= 1 for step in range(num_steps + 1))


def test_the_lessons_cosine_example_has_its_numbers():
    schedule = Cosine(num_steps=300, num_warmup=5)
    assert 0.1 * schedule(5) == pytest.approx(0.1)
    assert 0.1 * schedule(150) == pytest.approx(0.0513, abs=5e-5)
    assert 0.1 * schedule(2) == pytest.approx(0.1 * 2 / 5)
    assert 0.1 * schedule(300) == pytest.approx(0)


def test_restarts_double_and_each_cosine_starts_at_one():
    schedule = WarmRestarts(period=3, growth=2)
    assert [step for step in range(50) if schedule(step) == 1.0] == [0, 3, 9, 21, 45]
    assert [step for step in range(50) if schedule.is_end(step)] == [2, 8, 20, 44]


def slow_restarts(period, growth, num_steps):
    """Where cosines start: period (1 + growth + growth^2 + ...) to the nearest step, one term after the other."""
    starts, sum_of_periods, length = [], 0.0, float(period)
    while sum_of_periods < num_steps:
        starts.append(math.floor(sum_of_periods + 0.5))
        sum_of_periods, length = sum_of_periods + length, length * growth
    return starts


@pytest.mark.parametrize("floor", [0.0, 0.1, 1 / 3, 1.0])
@pytest.mark.parametrize("growth", [1.0, 1.0001, 1.1, 1.5, 2.0, 2.7, 10.0, 1000.0])
@pytest.mark.parametrize("period", [1, 2, 3, 7, 100])
def test_the_steps_before_restarts_are_those_counted_one_by_one(period, growth, floor):
    schedule = WarmRestarts(period=period, growth=growth, floor=floor)
    starts = slow_restarts(period, growth, 3002)
    assert [step for step in range(3000) if schedule.is_end(step)] == [
        start - 1 for start in starts if 0 < start <= 3000
    ]
    assert all(schedule(start) == pytest.approx(1.0, rel=1e-15) for start in starts)
    assert not schedule.is_end(-1)


@pytest.mark.parametrize("growth", [1.0, 1.5, 2.0])
def test_between_restarts_the_factor_falls_along_one_cosine(growth):
    schedule = WarmRestarts(period=5, growth=growth, floor=0.2)
    starts = slow_restarts(5, growth, 400)
    for start, following in pairwise(starts):
        shares = [(step - start) / (following - start) for step in range(start, following)]
        expected = [0.2 + 0.8 * (1 + math.cos(math.pi * share)) / 2 for share in shares]
        assert [schedule(step) for step in range(start, following)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("growth", [1.0, 1.0001, 1.5, 2.0])
def test_a_late_step_costs_what_an_early_one_does(growth, monkeypatch):
    """Counted in looked-up restarts, which are what a call spends its time on."""
    counts, look_up = [], WarmRestarts._start
    monkeypatch.setattr(WarmRestarts, "_start", lambda self, number: counts.append(number) or look_up(self, number))
    schedule = WarmRestarts(period=3, growth=growth)
    for step in (10**6, 10**6 + 1, 10**9, 10**12):
        counts.clear()
        assert 0 <= schedule(step) <= 1
        assert len(counts) <= 7


def test_warmup_stable_decay_has_its_three_parts():
    schedule = WarmupStableDecay(num_warmup=2, num_stable=3, num_decay=4, floor=0.2)
    assert [schedule(step) for step in range(11)] == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2])


def test_the_inverse_square_root_peaks_where_its_warmup_ends():
    schedule = InverseSquareRoot(num_warmup=4)
    assert [schedule(step) for step in (0, 3, 15)] == pytest.approx([0.25, 1.0, math.sqrt(4 / 16)])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(num_steps=5, num_warmup=5), "num_warmup must be below num_steps"),
        (lambda: Cosine(num_steps=5, floor=2.0), r"must be in \[0, 1\]; got 2.0"),
        (lambda: StepDecay(every=2, gamma=0.0), r"gamma must be in \(0, 1\]"),
        (lambda: WarmRestarts(period=2, growth=0.5), "growth must be at least 1"),
        (lambda: WarmRestarts(period=2, growth=1e9), "at most 1000; got 1000000000.0"),
        (lambda: OneCycle(num_steps=5, rise=1.0), r"rise must be in \(0, 1\)"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


COUNTS = {
    (type(schedule), name): hint.__metadata__[0].ge
    for schedule in EVERY
    for name, hint in get_type_hints(type(schedule), include_extras=True).items()
    if get_origin(hint) is Annotated
}


@pytest.mark.parametrize(("kind", "name"), list(COUNTS))
def test_a_count_is_checked_however_the_schedule_is_made(kind, name):
    """From a file msgspec checks what the annotation says; made in Python nothing does but the schedule."""
    (good,) = (msgspec.structs.asdict(schedule) for schedule in EVERY if type(schedule) is kind)
    least = COUNTS[kind, name]
    for bad in (least - 1, -7, 2.5, 2.0, True, "a", None, math.nan):
        with pytest.raises(ConfigError, match=f"{name} must be a whole number, at least {least}; got {bad!r}"):
            kind(**{**good, name: bad})


@pytest.mark.parametrize(
    "schedule",
    [
        StepDecay(every=1),
        LinearWarmup(num_steps=1),
        Cosine(num_steps=1, num_warmup=0),
        WarmRestarts(period=1),
        OneCycle(num_steps=1),
        WarmupStableDecay(num_warmup=0, num_stable=0, num_decay=1),
        InverseSquareRoot(num_warmup=1),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_the_smallest_counts_make_a_schedule(schedule):
    assert all(0 <= schedule(step) <= 1 for step in range(5))
