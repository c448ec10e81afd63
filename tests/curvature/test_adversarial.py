"""Symmetric matrices made to mislead an eigensolver: near ties, a larger negative end, eight decades, low rank."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tests.curvature.claims import solve_and_check, solve_and_check_both
from tests.reference.matrices import Diagonal, randn, symmetric
from tightrope.curvature import Dense, Scaled, extreme_eigenvalues, top_eigenvalues

NAN = float("nan")
SPECTRA = {
    "near ties": lambda p, x: [1.0, 1.0 - 10.0 ** -(3 + 9 * x), *torch.linspace(-0.5, 0.9, p).tolist()],
    "many near ties": lambda p, x: [1.0 - i * 10.0 ** -(3 + 9 * x) for i in range(4)] + [0.5] * p,
    "larger negative end": lambda p, x: [1.0, 0.7, *torch.linspace(-1, 0.5, p).tolist(), -(10.0 ** (6 * x))],
    "low rank": lambda p, x: [5.0, -4.0 * x] + [0.0] * p,
    "identity": lambda p, x: [1.0] * p,
    "zero": lambda p, x: [0.0] * p,
    "one by one": lambda p, x: [2 * x - 1],
    "eight decades": lambda p, x: torch.logspace(-8 * x, 0, p, dtype=torch.float64).tolist(),
    "all negative": lambda p, x: (-torch.logspace(-8 * x, 0, p, dtype=torch.float64)).tolist(),
}
STARTS = ("cold", "random", "exact", "orthogonal to the top", "rank-deficient", "NaN columns", "infinite", "no columns")


def start_of(kind, A, k, seed):
    """Vectors to start from, (p, j) or None."""
    p, dtype = len(A), A.dtype
    vectors = torch.linalg.eigh(A.double()).eigenvectors.flip(1)
    block = randn(p, k + 1, seed=seed + 1)
    if kind == "exact":
        block = vectors[:, : k + 1]
    elif kind == "orthogonal to the top":
        block = block - vectors[:, :1] @ (vectors[:, :1].T @ block)
    elif kind == "rank-deficient":
        block = block[:, :1].expand(-1, k + 1)
    elif kind == "NaN columns":
        block[0, 0] = NAN
    elif kind == "infinite":
        block[-1] = math.inf
    elif kind == "no columns":
        block = block[:, :0]
    return None if kind == "cold" else block.to(dtype)


@st.composite
def problems(draw):
    """(operator, its float64 truth, own rounding, k, options) for a solve."""
    make = SPECTRA[draw(st.sampled_from(sorted(SPECTRA)))]
    seed, dtype = draw(st.integers(0, 2**31)), draw(st.sampled_from([torch.float64, torch.float32]))
    A = symmetric(make(draw(st.integers(1, 20)), draw(st.floats(0, 1))), seed).to(dtype)
    p = len(A)
    operator = Dense(A)
    if draw(st.booleans()):
        half = torch.logspace(-4, 4, p, dtype=torch.float64).sqrt().to(dtype)
        operator, A = Scaled(operator, half), half.double()[:, None] * A.double() * half.double()
    truth = torch.linalg.eigvalsh(A.double()).flip(0)
    k = draw(st.one_of(st.just(1), st.integers(1, min(p, 4)), st.just(p)))
    own = 2 * p**0.5 * torch.finfo(dtype).eps  # a row of p products, rounded
    options = {
        "start": start_of(draw(st.sampled_from(STARTS)), A.to(dtype), k, seed),
        "rtol": draw(st.sampled_from([0.0, 1e-8, 1e-2, 0.5])),
        "max_products": draw(st.integers(k, 4 * p + 8)),
        "seed": seed,
    }
    return operator, truth, own, k, options


@settings(max_examples=250, deadline=None, derandomize=True)
@given(problem=problems(), room=st.sampled_from([None, 0, 1, 7]), bound_rtol=st.sampled_from([None, 0.1]))
def test_every_claim_on_the_top_is_true(problem, room, bound_rtol):
    operator, truth, own, k, options = problem
    max_basis = None if room is None else min(operator.size, 3 * (k + 1) + room)
    solve_and_check(operator, k, truth, own=own, max_basis=max_basis, bound_rtol=bound_rtol, **options)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(problem=problems(), room=st.sampled_from([None, 0, 5]))
def test_every_claim_on_both_ends_is_true(problem, room):
    operator, truth, own, k, options = problem
    max_basis = None if room is None else min(operator.size, 6 * (k + 1) + room)
    solve_and_check_both(operator, k, truth, own=own, max_basis=max_basis, **options)


# What holds with a probability: seeded starts, counted against a binomial


LINE = torch.linspace(-1, 1, 300, dtype=torch.float64)
HARD = {
    "even": LINE,
    "outliers barely above a flat bulk": torch.cat([LINE, torch.tensor([1.02, -1.02], dtype=torch.float64)]),
    "crowded at both ends": torch.sin(LINE * math.pi / 2),
    "larger negative end": torch.cat([LINE, torch.tensor([-1e3], dtype=torch.float64)]),
}


def is_covered(num_violations, num_starts, confidence):
    return binomtest(num_violations, num_starts, 1 - confidence, alternative="greater").pvalue >= 1e-3


@pytest.mark.parametrize("confidence", [0.95, 0.5])
@pytest.mark.parametrize("name", HARD)
def test_the_upper_bound_holds_as_often_as_it_says_although_the_basis_was_restarted(name, confidence):
    lam = HARD[name]
    options = {"rtol": 1e-6, "max_basis": 12, "max_products": 24, "confidence": confidence}
    results = [top_eigenvalues(Diagonal(lam), seed=seed, **options) for seed in range(60)]
    stated = [result for result in results if result.upper_kind == "probabilistic"]
    num_violations = sum(result.upper < lam.max() for result in stated) + len(results) - len(stated)
    assert all(result.upper < math.inf for result in results)
    assert is_covered(num_violations, 60, confidence)


@pytest.mark.parametrize("confidence", [0.95, 0.5])
@pytest.mark.parametrize("name", HARD)
def test_the_bounds_on_both_ends_hold_together_as_often_as_they_say(name, confidence):
    lam = HARD[name]
    options = {"rtol": 1e-6, "max_products": 12, "confidence": confidence}
    results = [extreme_eigenvalues(Diagonal(lam), seed=seed, **options) for seed in range(100)]
    assert {result.top.upper_kind for result in results} == {"probabilistic"}
    is_wrong = [result.top.upper < lam.max() or result.bottom.lower > lam.min() for result in results]
    assert all(-math.inf < result.bottom.lower for result in results)
    assert is_covered(sum(is_wrong), 100, confidence)


def test_the_check_allows_five_percent_and_refuses_fifteen():
    assert is_covered(5, 100, 0.95)
    assert not is_covered(15, 100, 0.95)
