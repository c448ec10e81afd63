"""Numbers the lectures and papers state, measured by running the library's methods on x^2 / 2."""

import itertools
import math

import pytest
import torch

from tightrope.optim import GD, Adam, Cosine, HeavyBall, RMSProp, freeze
from tightrope.problems import Quadratic

PARABOLA = Quadratic()


def descend(make, num_steps, *, start=1.0, preset=None):
    """Positions 0, 1, 2, ... of a method on x^2 / 2, and after each step its ratio to the edge."""
    problem = Quadratic(start=(start,)).build(0, torch.float64)
    optimizer = make([problem.w])
    if preset is not None:
        optimizer.state[problem.w] = preset
    path, ratios = [start], []
    for _ in range(num_steps):
        problem.gradient.zero_()
        problem.loss_fn(problem.model, problem.batch).backward()
        optimizer.step()
        path.append(problem.w.item())
        ratios.append(freeze(optimizer).D.item())  # the curvature is 1
    return path, ratios


@pytest.mark.parametrize(("lr", "is_stable"), [(37.9, True), (38.1, False)])
def test_averaged_heavy_ball_converges_below_38_and_diverges_above(lr, is_stable):
    path, ratios = descend(lambda params: HeavyBall(params, lr, 0.9, ema=True), 2500)
    assert ratios[-1] == pytest.approx(lr / 38)
    assert (abs(path[-1]) < 1e-40) if is_stable else (abs(path[-1]) > 1e40)


@pytest.mark.parametrize(("beta2", "peak", "step"), [(0.9, 1.479, 3), (0.99, 2.588, 8), (0.999, 6.514, 14)])
def test_rmsprop_with_a_second_moment_of_one_overshoots_then_cycles_at_half_its_learning_rate(beta2, peak, step):
    preset = {"step": 0, "preconditioner_step": 0, "nu": torch.ones(1, dtype=torch.float64)}
    path, _ = descend(lambda params: RMSProp(params, 2.2, beta2=beta2, eps=0.0), 2500, preset=preset)
    far = [abs(x) for x in path]
    assert max(far) == pytest.approx(peak, abs=5e-4)
    assert far.index(max(far)) == step
    if beta2 < 0.999:  # the longest memory still swings after these steps
        assert far[-2:] == pytest.approx([1.1, 1.1], abs=1e-4)
        assert path[-1] * path[-2] < 0


@pytest.mark.parametrize("beta2", [0.9, 0.99])
def test_adam_does_not_settle_at_its_threshold_but_somewhat_below(beta2):
    _, ratios = descend(lambda params: Adam(params, 0.15, betas=(0.9, beta2)), 12_000)
    late = ratios[6_000:]
    assert 0.87 < sum(late) / len(late) < 0.95
    assert max(late) - min(late) > 0.05  # and it does not come to rest there either


@pytest.mark.parametrize(("start", "step"), [(1.0, 790), (0.1, 353), (2.0, 962)])
def test_a_stale_second_moment_carries_adam_over_its_threshold(start, step):
    path, ratios = descend(lambda params: Adam(params, 0.15, betas=(0.9, 0.99), eps=1e-8), step + 100, start=start)
    losses = [x * x / 2 for x in path]
    first = next(t for t, ratio in enumerate(ratios, start=1) if ratio > 1)
    assert first == step
    if start == 1.0:
        peak = max(losses[step:])
        assert losses[step - 1] == pytest.approx(2.3e-35, rel=0.03)
        assert peak == pytest.approx(9.6e-4, rel=5e-3)
        assert losses.index(peak) + 1 == step + 57  # loss number t is of the point that step t starts from


@pytest.mark.parametrize(
    ("make", "length"),
    [
        (lambda params: Adam(params, 1e-3), 1.0),
        (lambda params: Adam(params, 1e-3, bias_correction=False), 3.16),
        (lambda params: RMSProp(params, 1e-3, beta2=0.999), 31.6),  # the first moment is corrected by having none
    ],
)
def test_the_first_step_without_bias_correction_is_too_long(make, length):
    path, _ = descend(make, 1)
    assert abs(path[1] - path[0]) == pytest.approx(length * 1e-3, rel=2e-3)


def test_a_cosine_after_five_warmup_steps_is_at_half_height_between_steps_152_and_153():
    schedule = Cosine(num_steps=300, num_warmup=5)
    assert 0.1 * schedule(150) == pytest.approx(0.0513, abs=5e-5)
    assert 0.1 * schedule(152) > 0.05 > 0.1 * schedule(153)
    assert (0.1 * schedule(152) + 0.1 * schedule(153)) / 2 == pytest.approx(0.05, abs=1e-12)


def test_the_best_constant_step_of_gradient_descent_is_two_over_the_sum_of_the_extreme_curvatures():
    L, mu = 10.0, 2.0

    def distance(lr, num_steps=20):
        problem = Quadratic(curvatures=(mu, L), start=(1.0, 1.0)).build(0, torch.float64)
        optimizer = GD([problem.w], lr)
        for _ in range(num_steps):
            problem.gradient.zero_()
            problem.loss_fn(problem.model, problem.batch).backward()
            optimizer.step()
        return problem.w.abs().max().item()

    best = distance(2 / (L + mu))
    assert best == pytest.approx(((L - mu) / (L + mu)) ** 20)
    assert best < min(distance(lr) for lr in (1 / L, 1.9 / (L + mu), 2.1 / (L + mu), 1.9 / L))


def test_the_catapult_of_gradient_descent_needs_sharpness_that_can_move():
    """On a quadratic nothing catches a run above 2 / lr: it is the falling sharpness that ends the catapult."""
    path, ratios = descend(lambda params: GD(params, 2.5), 50)
    assert ratios[-1] == pytest.approx(1.25)
    assert all(abs(after) == pytest.approx(1.5 * abs(before)) for before, after in itertools.pairwise(path))
    assert math.isfinite(path[-1])
