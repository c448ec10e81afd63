"""Problems: data, models and losses as the papers and lectures define them."""

from __future__ import annotations

import pytest
import torch

from tightrope.curvature import Hessian
from tightrope.errors import ConfigError
from tightrope.problems import (
    Chebyshev,
    Digits,
    Quadratic,
    classification,
    cross_entropy,
    half_squared_error,
    supervised,
)
from tightrope.problems.data import chebyshev, digits, one_hot


def dense_hessian(problem):
    H = Hessian(problem.model, problem.loss_fn, problem.batch)
    return H @ torch.eye(H.size, dtype=H.dtype)


def test_digits_are_1797_real_scans_in_the_unit_interval():
    x, y = digits()
    assert x.shape == (1797, 64)
    assert (x.min(), x.max()) == (0, 1)
    assert y.unique().tolist() == list(range(10))


def test_the_chebyshev_target_is_the_polynomial_of_its_degree():
    x, y = chebyshev(20, 5)
    assert torch.allclose(y, 16 * x**5 - 20 * x**3 + 5 * x, atol=1e-14)
    assert torch.allclose(x.flatten(), torch.linspace(-1, 1, 20).double(), atol=1e-6)


def test_the_chebyshev_network_starts_at_the_known_sharpness():
    problem = Chebyshev().build(0, torch.float64)
    assert problem.w.numel() == 300
    assert float(torch.linalg.eigvalsh(dense_hessian(problem))[-1]) == pytest.approx(2.760, abs=5e-4)


def test_the_fully_connected_network_is_the_papers():
    problem = Digits().build(0, torch.float64)
    sizes = [tuple(w.shape) for w in problem.parameters]
    assert sizes[0] == (200, 64)
    assert sizes[-2:] == [(10, 200), (10,)]
    assert len(sizes) == 12
    for weight, bias in zip(problem.parameters[::2], problem.parameters[1::2], strict=True):
        assert float(weight.detach().std()) == pytest.approx(weight.shape[1] ** -0.5, rel=0.05)
        assert (bias == 0).all()


@pytest.mark.parametrize(
    ("config", "curvatures"),
    [
        (Quadratic(), [1]),
        (Quadratic(curvatures=(2, 2), start=(1, 1)), [2, 2]),
        (Quadratic(curvatures=(2, 10), start=(1, 1)), [2, 10]),
        (Quadratic(curvatures=(10, 1), start=(1, 10)), [10, 1]),
    ],
)
def test_a_quadratic_has_its_curvatures_and_starts_where_told(config, curvatures):
    problem = config.build(0, torch.float64)
    assert torch.equal(dense_hessian(problem), torch.diag(torch.tensor(curvatures).double()))
    assert tuple(problem.w.tolist()) == config.start


def test_losses_are_means_over_examples():
    torch.manual_seed(0)
    output, target, labels = torch.randn(7, 3), torch.randn(7, 3), torch.arange(7) % 3
    each = [((o - t) ** 2).sum() / 2 for o, t in zip(output, target, strict=True)]
    assert torch.allclose(half_squared_error(output, target), torch.stack(each).mean())
    assert torch.allclose(cross_entropy(output, labels), -output.log_softmax(1)[torch.arange(7), labels].mean())


@pytest.mark.parametrize("config", [Digits(hidden=(8,), num_examples=20), Chebyshev(width=5), Quadratic()])
def test_building_is_a_function_of_the_seed_and_leaves_the_global_state_alone(config):
    before, dtype = torch.get_rng_state(), torch.get_default_dtype()
    first, again = config.build(3, torch.float32), config.build(3, torch.float32)
    assert torch.equal(first.w, again.w)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_default_dtype() == dtype
    if not isinstance(config, Quadratic):
        assert not torch.equal(first.w, config.build(4, torch.float32).w)


def test_the_flat_parameter_and_the_model_are_one_storage():
    problem = Digits(hidden=(8,), num_examples=20).build(0, torch.float64)
    problem.loss_fn(problem.model, problem.batch).backward()
    expected = torch.cat([w.grad.flatten() for w in problem.parameters])
    assert torch.equal(problem.gradient, expected)
    assert problem.gradient.abs().sum() > 0
    with torch.no_grad():
        problem.w.zero_()
    assert all((w == 0).all() for w in problem.parameters)


def test_labels_out_of_range_and_empty_data_are_refused():
    with pytest.raises(ConfigError, match=r"labels must be in 0\.\.9; got 0\.\.10"):
        one_hot(torch.tensor([0, 10]), 10)
    with pytest.raises(ConfigError, match=r"labels must be in 0\.\.9; got -1\.\.3"):
        one_hot(torch.tensor([-1, 3]), 10)
    with pytest.raises(ConfigError, match="at least one example; got none"):
        one_hot(torch.tensor([], dtype=torch.int64), 10)
    model = torch.nn.Linear(2, 1)
    for loss in ("mse", "cross_entropy"):
        with pytest.raises(ConfigError, match=r"labels must be in 0\.\.2; got 0\.\.3"):
            classification(model, torch.zeros(2, 2), torch.tensor([0, 3]), 3, loss, torch.float32)
    for n, m in ((0, 0), (3, 2)):
        with pytest.raises(ConfigError, match=f"got {n} and {m}"):
            supervised(model, torch.zeros(n, 2), torch.zeros(m, 1), half_squared_error, torch.float32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Digits(activation="tahn"), "Did you mean 'tanh'?"),
        (lambda: Digits(loss="mae"), "Did you mean 'mse'?"),
        (lambda: Digits(hidden=(10, 0)), "widths must be at least 1"),
        (lambda: Chebyshev(num_points=0), "at least 1"),
        (lambda: Quadratic(curvatures=(), start=()), "got 0 and 0"),
        (lambda: Quadratic(curvatures=(1.0,), start=(1.0, 2.0)), "got 1 and 2"),
    ],
)
def test_a_problem_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)
