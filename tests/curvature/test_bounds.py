"""The probabilistic upper bound: its formula, and that it holds as often as it says."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tests.reference.matrices import Diagonal
from tightrope.curvature import bounds, krylov_error, probabilistic_upper, top_eigenvalues


def num_products_for(p, epsilon, failure):
    return next(m for m in range(1, 1000) if krylov_error(p, m, failure) <= epsilon)


@pytest.mark.parametrize(("p", "epsilon", "m"), [(777_000, 0.05, 24), (777_000, 0.01, 52), (300, 0.01, 33)])
def test_a_relative_error_at_95_percent_needs_this_many_products(p, epsilon, m):
    assert num_products_for(p, epsilon, failure=0.05) == m


@pytest.mark.parametrize("m", [1, 5, 40])
@pytest.mark.parametrize("p", [1, 300, 10**9])
def test_the_error_solves_the_published_inequality(p, m):
    epsilon = krylov_error(p, m, 0.05)
    assert 1.648 * math.sqrt(p) * math.exp(-math.sqrt(epsilon) * (2 * m - 1)) == pytest.approx(0.05, rel=1e-9)


def test_without_products_nothing_is_known():
    assert krylov_error(100, 0, 0.05) == math.inf
    assert probabilistic_upper(100, 0, 1.0, 0.0, 0.95) == math.inf
    assert probabilistic_upper(10**6, 3, 1.0, 0.0, 0.95) == math.inf


@given(m=st.integers(8, 200), a=st.floats(1e-3, 1e3), b=st.floats(-10, 10), spread=st.floats(0, 10))
def test_the_bound_moves_with_a_scaled_and_shifted_spectrum(m, a, b, spread):
    plain = probabilistic_upper(500, m, 2.0, 2.0 - spread, 0.95)
    moved = probabilistic_upper(500, m, a * 2.0 + b, a * (2.0 - spread) + b, 0.95)
    assert moved == pytest.approx(a * plain + b, rel=1e-9, abs=1e-9)


def test_the_bound_covers_the_error_of_both_ends():
    p, m, S, confidence = 500, 30, 7.0, 0.9
    epsilon = krylov_error(p, m, 0.05)
    largest, smallest = 3.0 - epsilon * S, 3.0 - S + epsilon * S
    assert probabilistic_upper(p, m, largest, smallest, confidence) == pytest.approx(3.0, rel=1e-12)


def test_the_bound_tightens_with_products_and_loosens_with_confidence():
    by_products = [probabilistic_upper(500, m, 1.0, -1.0, 0.95) for m in range(8, 100)]
    by_confidence = [probabilistic_upper(500, 30, 1.0, -1.0, c) for c in (0.5, 0.9, 0.95, 0.999)]
    assert by_products == sorted(by_products, reverse=True)
    assert by_confidence == sorted(by_confidence)
    assert by_products[-1] > 1.0


# Coverage: the bound may fail for some starts, but no more often than it says.


def spectrum(*outliers, bulk):
    return torch.cat([torch.tensor(outliers, dtype=torch.float64), bulk.double()])


HARD = {
    "nearly flat": torch.linspace(0.99, 1, 300, dtype=torch.float64) ** 40,
    "outlier barely above a flat bulk": spectrum(1.02, bulk=torch.linspace(0, 1, 299)),
    "logarithmic": torch.logspace(-6, 0, 300, dtype=torch.float64),
    "crowded at the top": 1 - torch.linspace(0, 1, 300, dtype=torch.float64) ** 4,
    "far larger negative end": spectrum(1.0, -50.0, bulk=torch.linspace(-1, 0.9, 298)),
    "Chebyshev points": torch.cos(torch.linspace(0, math.pi, 300, dtype=torch.float64)),
}


def count_violations(lam, *, k=1, max_products, num_starts, confidence=0.95, bound_rtol=None):
    """(violations of the upper bound, excess of the bounds over lambda_1) for seeded random starts."""
    operator, top = Diagonal(lam), float(lam.max())
    options = {"max_products": max_products, "confidence": confidence, "bound_rtol": bound_rtol}
    results = [top_eigenvalues(operator, k, rtol=1e-9, seed=seed, **options) for seed in range(num_starts)]
    assert {(result.upper_kind, result.confidence) for result in results} == {("probabilistic", confidence)}
    excess = [result.upper - top for result in results]
    return sum(e < 0 for e in excess), excess


def is_covered(num_violations, num_starts, confidence):
    """Whether so many violations are consistent with the confidence."""
    return binomtest(num_violations, num_starts, 1 - confidence, alternative="greater").pvalue >= 1e-3


@pytest.mark.parametrize(("confidence", "max_products"), [(0.95, 8), (0.95, 14), (0.5, 7)])
@pytest.mark.parametrize("name", HARD)
def test_the_upper_bound_holds_as_often_as_it_says(name, max_products, confidence):
    num_violations, excess = count_violations(
        HARD[name], max_products=max_products, num_starts=200, confidence=confidence
    )
    assert all(e < math.inf for e in excess)
    assert is_covered(num_violations, 200, confidence)


@pytest.mark.parametrize(("k", "max_products"), [(2, 17), (6, 48)])
@pytest.mark.parametrize("name", HARD)
def test_the_upper_bound_holds_for_block_starts(name, k, max_products):
    num_violations, excess = count_violations(HARD[name], k=k, max_products=max_products, num_starts=60)
    assert all(e < math.inf for e in excess)
    assert is_covered(num_violations, 60, 0.95)


def test_the_upper_bound_holds_where_the_krylov_space_closes_in_float32():
    lam = spectrum(3.0, -1e6, bulk=torch.zeros(298)).float()
    num_violations, _ = count_violations(lam, max_products=64, num_starts=100, bound_rtol=0.05)
    assert is_covered(num_violations, 100, 0.95)


@pytest.mark.parametrize("factor", [4, 20])
def test_a_bound_that_is_too_tight_is_caught(monkeypatch, factor):
    monkeypatch.setattr(bounds, "krylov_error", lambda p, m, failure: krylov_error(p, m, failure) / factor)
    num_violations, _ = count_violations(HARD["outlier barely above a flat bulk"], max_products=14, num_starts=60)
    assert not is_covered(num_violations, 60, 0.95)


def test_the_check_allows_five_percent_and_refuses_fifteen():
    assert is_covered(0, 200, 0.95)
    assert is_covered(10, 200, 0.95)
    assert not is_covered(30, 200, 0.95)
