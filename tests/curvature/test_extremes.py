"""Both ends of a spectrum from one space, against dense eigensolves."""

import math

import pytest
import torch

from tests.curvature.claims import Counting, solve_and_check_both
from tests.reference.matrices import SPECTRA, randn, symmetric
from tests.reference.matrices import Counting as Failing
from tightrope.curvature import Dense, extreme_eigenvalues, top_eigenvalues
from tightrope.errors import ShapeError

P = 200
INDEFINITE = (torch.linspace(-3, 2, P, dtype=torch.float64) ** 3 / 9).tolist()


def descending(A):
    return torch.linalg.eigvalsh(A.double()).flip(0)


@pytest.mark.parametrize("start", [None, randn(24, 4, seed=1)], ids=["cold", "warm"])
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("name", [name for name in SPECTRA if name != "one by one"])
def test_with_products_to_spare_both_ends_are_the_eigenvalues(name, k, start):
    A = symmetric(SPECTRA[name])
    truth = descending(A)
    ends = solve_and_check_both(Dense(A), k, truth, start=start, rtol=1e-9)
    atol = float(1e-8 * truth.abs().max())
    assert torch.allclose(ends.top.values, truth[:k], rtol=0, atol=atol)
    assert torch.allclose(ends.bottom.values, truth.flip(0)[:k], rtol=0, atol=atol)


def test_the_ends_of_one_number_are_that_number():
    ends = extreme_eigenvalues(Dense(torch.tensor([[-3.0]])))
    assert float(ends.top.values) == float(ends.bottom.values) == -3.0
    assert (ends.top.upper_kind, ends.status, ends.num_products) == ("exact", "converged", 1)


def test_the_ends_of_all_eigenvalues_are_each_other_upside_down():
    A = symmetric([4.0, 1.0, -1.0, -7.0])
    ends = solve_and_check_both(Dense(A), 4, descending(A))
    assert torch.allclose(ends.top.values, ends.bottom.values.flip(0))
    assert torch.allclose(ends.bottom.values, torch.tensor([-7.0, -1.0, 1.0, 4.0], dtype=torch.float64))


@pytest.mark.parametrize("k", [1, 2])
def test_both_ends_cost_little_more_than_the_dearer_one(k):
    A, options = symmetric(INDEFINITE), {"rtol": 1e-3, "max_products": 200}
    ends = extreme_eigenvalues(Dense(A), k, **options)
    apart = [top_eigenvalues(Dense(sign * A), k, **options).num_products for sign in (1, -1)]
    assert ends.num_products <= 1.1 * max(apart)
    assert ends.num_products <= 0.7 * sum(apart)


def test_a_bottom_vector_belongs_to_its_value():
    A = symmetric(INDEFINITE)
    bottom = extreme_eigenvalues(Dense(A), 2, rtol=1e-6, max_products=150).bottom
    R = A @ bottom.vectors - bottom.vectors * bottom.values
    assert torch.allclose(bottom.residuals, R.norm(dim=0), rtol=1e-3)


@pytest.mark.parametrize("max_basis", [None, 12])
def test_a_warm_start_of_both_ends_takes_few_products(max_basis):
    A = symmetric([9.0, *torch.linspace(-1, 1, P - 2).tolist(), -6.0])
    E = symmetric(torch.linspace(-1, 1, P), seed=1)
    cold = extreme_eigenvalues(Dense(A))
    warm = extreme_eigenvalues(Dense(A + 1e-2 * E), start=cold.warm_start, seed=1, max_basis=max_basis)
    truth = descending(A + 1e-2 * E)
    assert warm.status == "converged"
    assert warm.num_products <= 8
    assert abs(float(warm.top.values[0] - truth[0])) <= float(warm.top.residuals[0])
    assert abs(float(warm.bottom.values[0] - truth[-1])) <= float(warm.bottom.residuals[0])
    assert (warm.top.upper_kind, warm.bottom.lower_kind) == ("residual", "residual")


def test_a_warm_start_holds_the_vectors_first_and_then_the_next_ones():
    ends = extreme_eigenvalues(Dense(symmetric(INDEFINITE)), 2)
    assert ends.warm_start.shape == (P, 6)
    assert torch.equal(ends.warm_start[:, :2], ends.top.vectors)
    assert torch.equal(ends.warm_start[:, 2:4].flip(1), ends.bottom.vectors)


def test_the_bound_asked_for_is_reached_at_both_ends():
    A = symmetric(torch.linspace(-1, 1, 300, dtype=torch.float64) ** 9)
    ends = extreme_eigenvalues(Dense(A), bound_rtol=0.05)
    assert ends.status == "converged"
    assert ends.top.upper <= 1.05 * float(ends.top.values[0])
    assert ends.bottom.lower >= 1.05 * float(ends.bottom.values[0])


def test_an_end_near_zero_that_is_not_resolved_is_a_spent_budget():
    A = symmetric(torch.logspace(-8, 0, P))
    ends = extreme_eigenvalues(Dense(A), max_products=40)
    assert (ends.status, ends.num_products) == ("max_products", 40)
    assert float(ends.bottom.residuals[0]) > 1e-2 * float(ends.bottom.values[0])
    assert float(ends.top.residuals[0]) < 1e-2


@pytest.mark.parametrize("first", [1, 4])
@pytest.mark.parametrize("start", [None, randn(40, 3, seed=1)], ids=["cold", "warm"])
def test_a_product_that_is_not_finite_is_a_status(first, start):
    operator = Failing(symmetric(torch.linspace(-1, 1, 40)), first)
    ends = extreme_eigenvalues(operator, start=start, rtol=1e-9)
    assert (ends.status, ends.top.status, ends.num_products) == ("not_finite", "not_finite", operator.num_applied)
    assert ends.top.values.isnan().all()
    assert ends.bottom.values.isnan().all()
    assert math.isnan(ends.top.upper)
    assert math.isnan(ends.bottom.lower)
    assert ends.warm_start.shape == (40, 0)


def test_a_seed_fixes_every_bit():
    A = Dense(symmetric(INDEFINITE))
    one, same, other = (extreme_eigenvalues(A, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(one.warm_start, same.warm_start)
    assert not torch.equal(one.warm_start, other.warm_start)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 0}, r"extreme_eigenvalues: k must be between 1 and p = 20; got 0"),
        ({"k": 21}, r"k must be between 1 and p = 20; got 21"),
        ({"max_basis": 11}, r"max_basis must be at least 12; got 11"),
        ({"start": torch.zeros(5, 1)}, r"start must be \(20, j\); got \(5, 1\)"),
        ({"start": torch.zeros(20, 1, dtype=torch.complex64)}, r"start must be \(20, j\); got complex \(20, 1\)"),
        ({"rtol": float("nan")}, r"rtol must be at least 0; got nan"),
        ({"k": 3, "max_products": 2}, r"max_products must be at least k = 3; got 2"),
    ],
)
def test_misuse_says_what_must_hold_and_what_was_given(wrong, message):
    counted = Counting(Dense(torch.eye(20)))
    with pytest.raises(ShapeError, match=message):
        extreme_eigenvalues(counted, **wrong)
    assert counted.num_applied == 0
