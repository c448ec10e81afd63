"""Schedules against torch's where it has the same, and against the lessons' numbers."""

import math

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
        (WarmRestarts(period=4, growth=1), lambda o: SCHEDULERS.CosineAnnealingWarmRestarts(o, 4)),
        (OneCycle(num_steps=30), lambda o: SCHEDULERS.OneCycleLR(o, 1.0, total_steps=30, cycle_momentum=False)),
        (
            OneCycle(num_steps=50, rise=0.5),
            lambda o: SCHEDULERS.OneCycleLR(o, 1.0, total_steps=50, pct_start=0.5, cycle_momentum=False),
        ),
        (LinearWarmup(num_steps=5), lambda o: SCHEDULERS.LinearLR(o, 1 / 5, 1.0, 4)),
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
        (lambda: OneCycle(num_steps=5, rise=1.0), r"rise must be in \(0, 1\)"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
