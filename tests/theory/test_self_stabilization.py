"""The self-stabilisation map: its long-run mean, and that the order of its two updates matters."""

import numpy as np
import pytest

from tightrope.errors import ConfigError
from tightrope.theory import self_stabilization

DRIVE = {"alpha": 0.01, "beta": 1.0}


@pytest.mark.parametrize("lr", [0.1, 0.5])
def test_the_mean_square_displacement_is_two_alpha_over_beta(lr):
    x, _ = self_stabilization(0.1, 0.0, lr=lr, num_steps=50_000, **DRIVE)
    assert len(x) == 50_001
    assert (x[1:] ** 2).mean() == pytest.approx(0.02, abs=1e-4)


def test_the_mean_follows_alpha_over_beta():
    x, _ = self_stabilization(0.1, 0.0, lr=0.5, alpha=0.02, beta=4.0, num_steps=50_000)
    assert (x[1:] ** 2).mean() == pytest.approx(0.01, abs=1e-4)


def test_the_sharpness_cycles_around_the_edge_and_the_cycle_does_not_grow():
    _, y = self_stabilization(0.1, 0.0, lr=0.1, num_steps=50_000, **DRIVE)
    assert abs(y.mean()) < 1e-3
    assert y[-10_000:].max() <= 1.01 * y[:10_000].max()


def test_with_the_old_displacement_the_cycle_would_spiral_outwards():
    x, y, lr, tops = 0.1, 0.0, 0.1, []
    for _ in range(20_000):
        x, y = -(1 + lr * y) * x, y + lr * (DRIVE["alpha"] - DRIVE["beta"] * x * x / 2)
        tops.append(y)
    stable = self_stabilization(0.1, 0.0, lr=lr, num_steps=20_000, **DRIVE)[1]
    assert max(tops[-5_000:]) > 1.5 * max(tops[:5_000])
    assert max(tops[-5_000:]) > 1.5 * stable.max()


def test_the_first_step_is_by_hand():
    x, y = self_stabilization(0.5, 0.2, lr=0.1, alpha=0.3, beta=2.0, num_steps=1)
    assert x.tolist() == [0.5, pytest.approx(-0.51)]
    assert y.tolist() == [0.2, pytest.approx(0.2 + 0.1 * (0.3 - 0.51**2))]


def test_a_path_that_overflows_ends_before_it_does():
    x, y = self_stabilization(1e100, 1e10, lr=1.0, num_steps=100, **DRIVE)
    assert len(x) < 101
    assert np.isfinite(x).all()
    assert np.isfinite(y).all()


@pytest.mark.parametrize(
    "wrong", [{"x": 0.0}, {"y": float("nan")}, {"lr": 0}, {"alpha": -1}, {"beta": 0}, {"num_steps": 0.5}]
)
def test_a_setting_out_of_its_range_is_a_config_error(wrong):
    with pytest.raises(ConfigError, match="must be"):
        self_stabilization(**{"x": 1.0, "y": 0.0, "lr": 0.1, "num_steps": 5, **DRIVE, **wrong})
