"""Wilson's construction: built as written, separable by one feature, and learnt by five methods."""

import numpy as np
import pytest
import torch

from tightrope.errors import ConfigError, ShapeError
from tightrope.optim import GD, AdaGrad, Adam, HeavyBall, RMSProp
from tightrope.theory import wilson_data, wilson_test_error

N, P = 200, 0.7
METHODS = {
    "gd": lambda params: GD(params, 0.5),
    "heavy ball": lambda params: HeavyBall(params, 0.5, 0.9),
    "adagrad": lambda params: AdaGrad(params, 0.1),
    "rmsprop": lambda params: RMSProp(params, 1e-3),
    "adam": lambda params: Adam(params, 1e-3),
}


def fit(make, x, y, num_steps=3000):
    """Weights of a linear model after full-batch least squares from zero, and its largest residual."""
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    w = torch.nn.Parameter(torch.zeros(x.shape[1], dtype=x.dtype))
    optimizer = make([w])
    for _ in range(num_steps):
        w.grad = x.T @ (x @ w.detach() - y) / len(y)
        optimizer.step()
    return w.detach().numpy(), (x @ w.detach() - y).abs().max().item()


def sampled_error(w, num_examples=20_000, seed=1):
    """Share of new examples that the weights get wrong; their blocks lie where the weights are 0."""
    x, y = wilson_data(1, P, seed=seed)
    rng = np.random.default_rng(seed)
    y = np.where(rng.random(num_examples) < P, 1.0, -1.0)
    shared = np.stack([y, np.ones_like(y), np.ones_like(y)], axis=1)
    assert x.shape == (1, 8)
    return float((np.sign(shared @ w[:3]) != y).mean())


@pytest.mark.parametrize("name", METHODS)
def test_plain_methods_generalise_and_adaptive_ones_vote_for_the_majority(name):
    x, y = wilson_data(N, P)
    w, residual = fit(METHODS[name], x, y)
    assert residual < 1e-5  # all five fit the training data
    expected = 0.0 if name in ("gd", "heavy ball") else 1 - P
    assert wilson_test_error(w, P) == pytest.approx(expected)
    assert sampled_error(w) == pytest.approx(expected, abs=0.01)


def test_gradient_descent_finds_the_least_norm_solution():
    x, y = wilson_data(N, P)
    w, _ = fit(METHODS["gd"], x, y)
    assert np.abs(w - np.linalg.pinv(x) @ y).max() < 1e-6


def test_adagrad_moves_every_weight_alike():
    x, y = wilson_data(N, P)
    w, _ = fit(METHODS["adagrad"], x, y)
    used = (x != 0).any(axis=0)
    assert np.abs(np.abs(w[used]) - 0.25).max() < 1e-6
    assert (np.sign(w[used]) == np.sign(x.T @ y)[used]).all()
    assert (w[~used] == 0).all()


def test_an_example_is_its_label_two_ones_and_a_block_of_its_own():
    x, y = wilson_data(50, P, seed=3)
    assert x.shape == (50, 3 + 5 * 50)
    assert (x[:, 0] == y).all()
    assert (x[:, 1:3] == 1).all()
    blocks = x[:, 3:].reshape(50, 50, 5)
    assert (blocks.sum(axis=2) == np.diag(np.where(y > 0, 1, 5))).all()
    assert (blocks[range(50), range(50), 0] == 1).all()


def test_the_share_of_positive_labels_is_p():
    y = np.concatenate([wilson_data(500, P, seed=seed)[1] for seed in range(10)])
    assert (y > 0).mean() == pytest.approx(P, abs=0.02)


@pytest.mark.parametrize(
    ("weights", "error"),
    [([1, 0, 0], 0.0), ([0.25, 0.25, 0.25], 0.3), ([-1, 0, 0], 1.0), ([0.1, -1, 0], 0.7), ([0, 0, 0], 1.0)],
)
def test_the_error_adds_up_the_two_classes(weights, error):
    assert wilson_test_error(weights, P) == pytest.approx(error)


@pytest.mark.parametrize("call", [lambda: wilson_data(0), lambda: wilson_data(5, 0.5), lambda: wilson_data(5, 1.0)])
def test_a_setting_out_of_its_range_is_a_config_error(call):
    with pytest.raises(ConfigError, match="must be"):
        call()


@pytest.mark.parametrize("weights", [[1, 2], [[1, 2, 3]], [float("nan"), 0, 0]])
def test_weights_without_the_shared_three_are_a_shape_error(weights):
    with pytest.raises(ShapeError, match="at least three"):
        wilson_test_error(weights)
