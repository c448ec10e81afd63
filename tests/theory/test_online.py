"""Adam and AMSGrad on Reddi's losses, against the theorem's limit and against the optimizers themselves."""

import numpy as np
import pytest
import torch

from tightrope.errors import ConfigError, ShapeError
from tightrope.optim import RMS, GradientMethod
from tightrope.theory import play, reddi_slopes


def rounds(C, num_rounds=30_000, **settings):
    return play(reddi_slopes(C, num_rounds), beta2=1 / (1 + C**2), **settings)


@pytest.mark.parametrize(("C", "regret"), [(3, 0.6672), (4, 1.3338), (10, 5.3338)])
def test_adam_stays_at_the_worst_point_with_the_regret_of_the_theorem(C, regret):
    run = rounds(C)
    assert run.last == 1.0
    assert run.best == -1.0
    assert run.average_regret[-1] == pytest.approx(regret, abs=5e-5)
    assert run.average_regret[-1] == pytest.approx((2 * C - 4) / 3, abs=6e-4)


@pytest.mark.parametrize(("C", "last", "regret"), [(3, -0.9996, 0.052), (4, -0.9997, 0.049), (10, -0.9999, 0.083)])
def test_amsgrad_goes_to_the_best_point_and_its_regret_is_small_but_not_zero(C, last, regret):
    run = rounds(C, running_max=True)
    assert run.last == pytest.approx(last, abs=5e-5)
    assert run.average_regret[-1] == pytest.approx(regret, abs=5e-4)


def test_adam_does_not_fail_here_when_its_memory_is_long():
    assert play(reddi_slopes(3, 30_000), beta2=0.999).last < -0.99


def test_once_it_is_there_amsgrad_regrets_hardly_anything_more():
    regret = rounds(3, 40_000, running_max=True).average_regret
    assert 40_000 * regret[39_999] == pytest.approx(10_000 * regret[9_999], rel=0.02)


@pytest.mark.parametrize("running_max", [False, True])
def test_the_points_are_those_of_the_library_s_own_method(running_max):
    C, num_rounds = 4, 300
    run = rounds(C, num_rounds, running_max=running_max)
    x = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    rule = RMS(beta=1 / (1 + C**2), eps=0.0, running_max=running_max)
    optimizer = GradientMethod([x], 0.1, preconditioner=rule)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) ** -0.5)
    played = []
    for slope in reddi_slopes(C, num_rounds):
        played.append(x.item())
        x.grad = torch.full_like(x, slope)
        optimizer.step()
        schedule.step()
        x.data.clamp_(-1, 1)
    assert np.abs(run.points - played).max() < 1e-13


def test_regret_is_the_loss_over_that_of_the_best_fixed_point():
    run = play([3.0, -1.0, -1.0, -4.0], beta2=0.5)
    assert run.best == 1.0
    assert run.losses.tolist() == ([3.0, -1.0, -1.0, -4.0] * run.points).tolist()
    assert run.average_regret[-1] == pytest.approx((run.losses.sum() + 3) / 4)


def test_slopes_of_nothing_move_nothing():
    assert play([0.0, 1e-200, 0.0], beta2=0.0).last == 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: reddi_slopes(2, 10),
        lambda: reddi_slopes(3, 0),
        lambda: reddi_slopes(3, float("inf")),
        lambda: play([1.0], beta2=1.0),
        lambda: play([1.0], beta2=0.5, lr=0),
        lambda: play([1.0], beta2=0.5, start=2),
    ],
)
def test_a_setting_out_of_its_range_is_a_config_error(call):
    with pytest.raises(ConfigError, match="must"):
        call()


@pytest.mark.parametrize("slopes", [[], [[1.0]], [float("nan")]])
def test_slopes_that_are_no_vector_of_numbers_are_a_shape_error(slopes):
    with pytest.raises(ShapeError, match="must be a vector"):
        play(slopes, beta2=0.5)
