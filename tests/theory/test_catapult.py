"""The catapult map against gradient descent on the weights themselves, and its measured peaks."""

import numpy as np
import pytest

from tightrope.errors import ConfigError
from tightrope.theory import catapult, two_layer_start


def descend(lr, width, num_steps, seed=0):
    """Output and curvature of the two-layer network while gradient descent moves its weights."""
    rng = np.random.default_rng(seed)
    u, v = rng.standard_normal(width), rng.standard_normal(width)
    path = []
    for _ in range(num_steps + 1):
        f = u @ v / np.sqrt(width)
        path.append((f, (u @ u + v @ v) / width))
        u, v = u - lr * f * v / np.sqrt(width), v - lr * f * u / np.sqrt(width)
    return np.array(path).T


def test_the_start_is_the_stated_one():
    f, lam = two_layer_start(512, 0)
    assert f == pytest.approx(1.0074, abs=5e-5)
    assert lam == pytest.approx(1.8939, abs=5e-5)


@pytest.mark.parametrize("multiple", [1.9, 2.5, 3.9])
def test_the_map_is_gradient_descent_on_the_weights(multiple):
    f, lam = two_layer_start()
    lr = multiple / lam
    path = catapult(f, lam, lr, num_steps=60)
    fs, lams = descend(lr, 512, 60)
    assert np.abs(path.lam - lams).max() < 1e-10
    assert np.abs(path.f - fs).max() < 1e-10


@pytest.mark.parametrize(("multiple", "peak"), [(2.5, 50.1), (3.0, 146.4), (3.9, 363.1)])
def test_between_two_and_four_the_loss_rises_by_the_measured_factor_then_lam_is_below_the_edge(multiple, peak):
    f, lam = two_layer_start()
    path = catapult(f, lam, multiple / lam)
    assert path.peak == pytest.approx(peak, abs=0.05)
    assert path.peak == pytest.approx(path.loss.max() / path.loss[0])
    assert path.loss[-1] < 1e-6 * path.loss[0]
    assert path.lam[-1] < 2 / path.lr
    assert not path.is_diverged


@pytest.mark.parametrize(("multiple", "peak"), [(2.5, 13.9), (3.0, 39.6), (3.9, 76.7)])
def test_from_one_and_one_the_peaks_are_lower(multiple, peak):
    assert catapult(1.0, 1.0, multiple).peak == pytest.approx(peak, abs=0.05)


def test_below_two_the_loss_only_falls():
    f, lam = two_layer_start()
    path = catapult(f, lam, 1.9 / lam, num_steps=300)
    assert path.peak == 1.0
    assert (np.diff(path.loss) < 0).all()


def test_above_four_it_diverges():
    f, lam = two_layer_start()
    path = catapult(f, lam, 4.1 / lam)
    assert path.is_diverged
    assert abs(path.f[-1]) > 1e70
    assert np.isfinite(path.f).all()
    assert len(path.f) < 20
    assert catapult(f, lam, path.lr, num_steps=len(path.f)).is_diverged
    assert not catapult(f, lam, path.lr, num_steps=len(path.f) - 1).is_diverged


def test_a_path_as_long_as_asked_did_not_diverge():
    assert len(catapult(1.0, 1.0, 0.5, num_steps=7).f) == 8
    assert len(catapult(1.0, 1.0, 0.5, num_steps=0).lam) == 1
    assert not catapult(1.0, 1.0, 0.5, num_steps=0).is_diverged


@pytest.mark.parametrize("wrong", [{"f": 0.0}, {"lam": -1.0}, {"lr": 0.0}, {"width": 0.5}, {"num_steps": -1}])
def test_a_setting_out_of_its_range_is_a_config_error(wrong):
    with pytest.raises(ConfigError, match="must be"):
        catapult(**{"f": 1.0, "lam": 1.0, "lr": 1.0, **wrong})


def test_a_network_needs_width():
    with pytest.raises(ConfigError, match="whole number from 1"):
        two_layer_start(0)
