"""A basis of a few vectors: what a restart keeps is enough, and what it says afterwards is still true."""

import math

import pytest
import torch

from tests.curvature.claims import solve_and_check
from tests.reference.matrices import Diagonal, randn, symmetric
from tightrope.curvature import Dense, bounds, krylov_error, top_eigenvalues
from tightrope.curvature.ritz import RitzSpace
from tightrope.errors import ShapeError

P = 200
SEPARATED = {
    "two outliers": [10.0, 8.0, *torch.linspace(-2, 2, P - 2).tolist()],
    "even": torch.linspace(0, 1, P).tolist(),
    "logarithmic": torch.logspace(-6, 0, P).tolist(),
    "indefinite": torch.linspace(-3, 2, P).tolist(),
}
NEAR_TIES = [1.0, 1.0 - 1e-9, 1.0 - 1e-6, 1.0 - 1e-4, *torch.linspace(-1, 0.9, P - 4).tolist()]
LINE = torch.linspace(-1, 1, 300, dtype=torch.float64)


def descending(A):
    return torch.linalg.eigvalsh(A.double()).flip(0)


@pytest.fixture
def basis_sizes(monkeypatch):
    """The length of the basis after each product of any solve."""
    sizes, append = [], RitzSpace._append

    def watched(self, v):
        append(self, v)
        sizes.append(max(self.num_columns, self._V.num, self._AV.num))

    monkeypatch.setattr(RitzSpace, "_append", watched)
    return sizes


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("start", [None, randn(P, 3, seed=1), randn(P, 40, seed=2)], ids=["cold", "warm", "wide"])
def test_the_basis_never_holds_more_than_max_basis(k, start, basis_sizes):
    result = top_eigenvalues(Dense(symmetric(SEPARATED["even"])), k, start=start, max_basis=3 * (k + 1), rtol=1e-5)
    assert 3 * (k + 1) - k < max(basis_sizes) <= 3 * (k + 1) < result.num_products


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("is_warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("name", SEPARATED)
def test_three_vectors_for_each_need_about_as_many_products_as_any_number(name, is_warm, k):
    A = symmetric(SEPARATED[name])
    start = randn(P, k + 1, seed=1) if is_warm else None
    options = {"start": start, "rtol": 1e-4, "max_products": 400}
    free = solve_and_check(Dense(A), k, descending(A), **options)
    held = solve_and_check(Dense(A), k, descending(A), max_basis=3 * (k + 1), **options)
    assert held.status == "converged"
    assert held.num_products <= 1.2 * free.num_products
    assert torch.allclose(held.values, descending(A)[:k], rtol=1e-5)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("start", [None, randn(P, 4, seed=1)], ids=["cold", "warm"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_near_ties_converge_by_their_residuals(k, start, dtype):
    A = symmetric(NEAR_TIES).to(dtype)
    result = solve_and_check(
        Dense(A), k, descending(A), own=1e-6, start=start, rtol=1e-5, max_basis=3 * (k + 1), max_products=500
    )
    assert result.status == "converged"
    assert torch.allclose(result.values.double(), descending(A)[:k], rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_start_without_the_top_finds_it(seed):
    A = symmetric(SEPARATED["two outliers"])
    vectors = torch.linalg.eigh(A).eigenvectors.flip(1)
    result = top_eigenvalues(Dense(A), start=vectors[:, 1:3], max_basis=6, seed=seed, rtol=1e-3, num_guard_steps=3)
    assert float(result.values[0]) == pytest.approx(10.0, rel=1e-4)


# What may be said after a restart


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_after_a_restart_is_the_one_before_it(seed):
    operator, options = Diagonal(LINE), {"seed": seed, "rtol": 1e-6}
    before = top_eigenvalues(operator, max_products=12, **options)
    after = top_eigenvalues(operator, max_products=60, max_basis=12, **options)
    assert after.values[0] > before.values[0]
    assert after.upper_kind == "probabilistic"
    assert after.upper == pytest.approx(before.upper, rel=1e-12)


def test_a_bound_that_a_later_value_disproves_is_not_stated(monkeypatch):
    monkeypatch.setattr(bounds, "krylov_error", lambda p, m, failure: krylov_error(p, m, failure) / 40)
    options = {"rtol": 1e-6, "max_products": 40, "max_basis": 12}
    results = [top_eigenvalues(Diagonal(LINE), seed=seed, **options) for seed in range(10)]
    disproved = [result for result in results if result.upper_kind == "residual"]
    assert all(result.upper >= float(result.values[0]) for result in results)
    assert all(result.confidence is None for result in disproved)
    assert disproved


def test_a_bound_that_no_product_can_improve_ends_the_search():
    options = {"bound_rtol": 1e-3, "max_products": 500}
    result = top_eigenvalues(Diagonal(LINE), max_basis=20, **options)
    assert (result.status, result.upper_kind) == ("bound_not_reached", "probabilistic")
    assert result.num_products < 60
    assert top_eigenvalues(Diagonal(LINE), **options).status == "converged"


def test_a_bound_is_reached_where_a_value_rises_to_it():
    result = top_eigenvalues(Diagonal(LINE), max_basis=20, bound_rtol=0.2)
    assert result.status == "converged"
    assert result.upper <= 1.2 * float(result.values[0])


@pytest.mark.parametrize("start", [None, randn(2000, 2, seed=1, dtype=torch.float32)], ids=["cold", "warm"])
@pytest.mark.parametrize("lowest", [0.0, -1e3])
def test_rounding_over_hundreds_of_restarts_stays_within_what_is_stated(lowest, start):
    lam = torch.cat([torch.linspace(0, 1, 1999), torch.tensor([lowest])])
    truth = lam.double().sort(descending=True).values
    result = top_eigenvalues(Diagonal(lam), start=start, rtol=0.0, max_basis=6, max_products=900)
    u, value = result.vectors[:, 0].double(), float(result.values[0])
    assert float((lam.double() * u - value * u).norm()) <= float(result.residuals[0])
    assert float(result.lower[0]) <= truth[0]
    assert float((truth - value).abs().min()) <= float(result.residuals[0])
    assert abs(float(u @ u) - 1) <= 40 * torch.finfo(torch.float32).eps


def test_a_restart_keeps_vectors_orthonormal_and_products_theirs():
    A = symmetric(SEPARATED["even"]).float()
    space = RitzSpace(Dense(A), 4000, max_columns=12, ends=(2, 0))
    space.extend(randn(P, 2, dtype=torch.float32))
    while not space.is_exhausted:
        space.extend(randn(P, 1, seed=space.num_products, dtype=torch.float32))
    eps, V, AV = torch.finfo(torch.float32).eps, space.V.double(), space.AV.double()
    assert space.num_restarts > 400
    assert float((V.T @ V - torch.eye(V.shape[1])).abs().max()) <= 40 * eps
    assert float((A.double() @ V - AV).norm(dim=0).max()) <= space.rounding


def test_rounding_of_an_end_that_a_restart_drops_is_not_forgotten():
    lam = torch.cat([torch.linspace(0, 1, 199), torch.tensor([-1e6])])
    space = RitzSpace(Diagonal(lam), 100, max_columns=6, ends=(2, 0))
    space.extend(randn(P, 6, dtype=torch.float32))
    space.extend(randn(P, 1, seed=1, dtype=torch.float32))
    kept = slice(0, space.num_columns - 1)
    drift = (lam.double()[:, None] * space.V.double() - space.AV.double())[:, kept].norm(dim=0)
    assert space.num_restarts == 1
    assert 1e-4 < float(drift.max()) <= space.rounding  # it is there, and covered


def test_no_product_is_spent_on_what_a_restart_dropped():
    space = RitzSpace(Dense(symmetric(SEPARATED["even"])), 100, max_columns=6, ends=(2, 0))
    space.extend(randn(P, 6))
    dropped = space.V.clone()
    assert space.extend(dropped @ randn(6, 1, seed=1)) == 0
    assert space.extend(randn(P, 1, seed=2)) == 1
    assert space.num_restarts == 1
    assert float((dropped.T @ space.V[:, -1:]).abs().max()) < 1e-12


def test_a_restart_spans_the_extreme_ritz_vectors_and_the_former_ones():
    A = symmetric(SEPARATED["even"])
    space = RitzSpace(Dense(A), 100, max_columns=6, ends=(2, 0))
    space.extend(randn(P, 4))
    _, former, _ = space.ritz(2)
    space.extend(randn(P, 2, seed=1))
    theta, present, _ = space.ritz(2)
    space.extend(randn(P, 1, seed=2))
    assert (space.num_restarts, space.num_columns) == (1, 5)
    V = space.V[:, :4]
    for kept in (former, present):
        assert torch.allclose(V @ (V.T @ kept), kept, atol=1e-12)
    assert (space.ritz(2)[0][:2] >= theta[:2] - 1e-12).all()


@pytest.mark.parametrize(
    ("k", "max_basis", "least"), [(1, 5, 6), (1, 0, 6), (3, 11, 12), (19, 19, 20)], ids=["1", "0", "3", "p"]
)
def test_a_basis_too_small_to_restart_is_refused(k, max_basis, least):
    with pytest.raises(ShapeError, match=rf"max_basis must be at least {least}; got {max_basis}\. A restart needs"):
        top_eigenvalues(Dense(torch.eye(20)), k, max_basis=max_basis, max_products=40)


@pytest.mark.parametrize("max_basis", [20, 64, 10**6])
def test_a_basis_with_room_for_all_products_is_as_none(max_basis):
    A = Dense(symmetric(torch.linspace(0, 1, 20)))
    free, held = top_eigenvalues(A, 2, rtol=1e-9), top_eigenvalues(A, 2, rtol=1e-9, max_basis=max_basis)
    assert torch.equal(free.vectors, held.vectors)
    assert (free.upper, free.num_products) == (held.upper, held.num_products)
    assert not math.isnan(held.upper)
