"""`top_eigenvalues` against dense eigensolves: every number it gives must claim no more than is true."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.curvature.claims import Counting, solve_and_check
from tightrope.curvature import Dense, Scaled, look, top_eigenvalues
from tightrope.errors import ShapeError

INF, NAN = float("inf"), float("nan")


class Failing(Counting):
    """An operator whose products hold `bad` from the `first`-th on."""

    def __init__(self, operator, bad, first):
        super().__init__(operator)
        self.bad, self.first = bad, first

    def apply(self, v):
        Av = super().apply(v).clone()
        if self.num_applied >= self.first:
            Av[-1] = self.bad
        return Av


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def rotation(p, seed=0):
    return torch.linalg.qr(randn(p, p, seed=seed)).Q


def symmetric(eigenvalues, seed=0):
    """A dense symmetric matrix with these eigenvalues in a random basis."""
    lam = torch.as_tensor(eigenvalues, dtype=torch.float64)
    Q = rotation(len(lam), seed)
    A = Q @ (lam[:, None] * Q.T)
    return (A + A.T) / 2


def descending(A):
    return torch.linalg.eigvalsh(A.double()).flip(0)


SPECTRA = {
    "one by one": [-3.0],
    "identity": [1.0] * 24,
    "zero": [0.0] * 24,
    "all negative": (-torch.logspace(-2, 2, 24)).tolist(),
    "threefold top": [5.0] * 3 + torch.linspace(-1, 4, 21).tolist(),
    "twofold top and nothing else": [5.0, 5.0] + [0.0] * 22,
    "near ties at the top": [1.0, 1.0 - 1e-12, 1.0 - 1e-09, 1.0 - 1e-06, *torch.linspace(0, 0.9, 20).tolist()],
    "rank one": [7.0] + [0.0] * 23,
    "rank three, indefinite": [7.0, 1e-3, -9.0] + [0.0] * 21,
    "larger negative end": [1.0, 0.5] + [0.0] * 21 + [-1e4],
    "mirrored": [3.0, -3.0] * 12,
    "eight decades": torch.logspace(-8, 0, 24, dtype=torch.float64).tolist(),
    "eight decades below zero": (-torch.logspace(-8, 0, 24, dtype=torch.float64)).tolist(),
    "flat bulk, one outlier": [1.01, *torch.linspace(0.999, 1, 23).tolist()],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", SPECTRA)
def test_every_claim_is_true_of_a_hard_spectrum(name, dtype):
    A = symmetric(SPECTRA[name]).to(dtype)
    p, truth = len(A), descending(A)
    for k in sorted({1, min(2, p), p}):
        for start in (None, randn(p, k, seed=1, dtype=dtype), A[:, :k]):
            for max_products in (k, k + 7, 64):
                for rtol in (1e-1, 1e-8):
                    solve_and_check(Dense(A), k, truth, start=start, max_products=max_products, rtol=rtol)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    eigenvalues=st.lists(
        st.one_of(
            st.floats(-10, 10, allow_subnormal=False), st.sampled_from([0.0, 1.0, 1 + 1e-13, -1.0, 1e-9, 1e5, -1e5])
        ),
        min_size=1,
        max_size=12,
    ),
    data=st.data(),
    seed=st.integers(0, 2**31),
    rtol=st.sampled_from([0.0, 1e-10, 1e-2, 0.5]),
    bound_rtol=st.sampled_from([None, 1e-1, 1e-6]),
    is_warm=st.booleans(),
)
def test_every_claim_is_true_of_any_symmetric_matrix(eigenvalues, data, seed, rtol, bound_rtol, is_warm):
    A = symmetric(eigenvalues, seed)
    p = len(A)
    k = data.draw(st.integers(1, p))
    max_products = data.draw(st.integers(k, 2 * p))
    start = randn(p, data.draw(st.integers(1, p)), seed=seed + 1) if is_warm else None
    options = {"start": start, "rtol": rtol, "bound_rtol": bound_rtol, "max_products": max_products, "seed": seed}
    solve_and_check(Dense(A), k, descending(A), **options)


@pytest.mark.parametrize("seed", range(3))
def test_every_claim_is_true_when_the_scaling_spans_eight_decades(seed):
    A, half = randn(60, 60, seed=seed), torch.logspace(-4, 4, 60, dtype=torch.float64).sqrt()
    A = A + A.T
    truth = descending(half[:, None] * A * half)
    for start in (None, randn(60, 2, seed=9)):
        result = solve_and_check(Scaled(Dense(A), half), 2, truth, start=start, rtol=1e-6)
        assert result.status == "converged"
        assert torch.allclose(result.values, truth[:2], rtol=1e-8)


@pytest.mark.parametrize("k", [1, 2, 24])
@pytest.mark.parametrize("name", [name for name in SPECTRA if name != "one by one"])
def test_with_products_to_spare_the_values_are_the_largest_eigenvalues(name, k):
    A = symmetric(SPECTRA[name])
    truth = descending(A)
    result = top_eigenvalues(Dense(A), k, rtol=1e-9)
    assert torch.allclose(result.values, truth[:k], rtol=0, atol=float(1e-9 * truth.abs().max()))


@pytest.mark.parametrize("start", [None, randn(300, 2, seed=1)], ids=["cold", "warm"])
def test_converged_means_that_every_residual_is_within_rtol(start):
    A = symmetric(torch.linspace(-1, 1, 300) ** 3)
    for rtol in (1e-1, 1e-2, 1e-4):
        result = top_eigenvalues(Dense(A), 2, start=start, rtol=rtol, max_products=200)
        assert result.status == "converged"
        assert (result.residuals <= rtol * result.values.abs() + 1e-12).all()
        assert torch.equal(result.residuals <= 1e-12, torch.tensor([False, False]))


def test_residuals_are_the_norms_of_the_residual_vectors():
    A = symmetric(torch.linspace(-1, 1, 100))
    result = top_eigenvalues(Dense(A), 3, max_products=24)
    R = A @ result.vectors - result.vectors * result.values
    assert torch.allclose(result.residuals, R.norm(dim=0), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("start", [None, randn(80, 2, seed=1)], ids=["cold", "warm"])
def test_a_seed_fixes_every_bit_of_the_result(start, dtype):
    A = symmetric(torch.linspace(-1, 1, 80)).to(dtype)
    one, same, other = (top_eigenvalues(Dense(A), 2, start=start, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(one.values, same.values)
    assert torch.equal(one.vectors, same.vectors)
    assert torch.equal(one.warm_start, same.warm_start)
    assert (one.upper, one.num_products) == (same.upper, same.num_products)
    assert not torch.equal(one.vectors, other.vectors)


def test_the_global_random_state_is_neither_read_nor_moved():
    A = Dense(symmetric(torch.linspace(-1, 1, 30)))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = top_eigenvalues(A)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(top_eigenvalues(A).vectors, one.vectors)


# Status


def test_a_spent_budget_is_a_status():
    A = symmetric(torch.linspace(0, 1, 200))
    result = top_eigenvalues(Dense(A), rtol=1e-10, max_products=5)
    assert (result.status, result.num_products) == ("max_products", 5)


def test_a_bound_that_is_not_reached_is_a_status_of_its_own():
    A = symmetric(torch.linspace(0, 1, 200))
    result = top_eigenvalues(Dense(A), rtol=0.5, bound_rtol=1e-6, max_products=20)
    assert (result.status, result.num_products) == ("bound_not_reached", 20)
    assert result.upper - float(result.values[0]) > 1e-6


@pytest.mark.parametrize("rtol", [1e-2, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_with_bound_rtol_the_upper_bound_is_within_it(rtol, seed):
    A = symmetric(torch.linspace(0, 1, 300) ** 8)
    result = top_eigenvalues(Dense(A), rtol=rtol, bound_rtol=0.05, seed=seed)
    assert (result.status, result.upper_kind, result.confidence) == ("converged", "probabilistic", 0.95)
    assert result.upper <= 1.05 * float(result.values[0])


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("first", [1, 4])
@pytest.mark.parametrize("start", [None, randn(40, 3, seed=1)], ids=["cold", "warm"])
def test_a_product_that_is_not_finite_is_a_status(bad, first, start):
    operator = Failing(Dense(symmetric(torch.linspace(-1, 1, 40))), bad, first)
    result = top_eigenvalues(operator, 2, start=start, rtol=1e-9)
    assert result.status == "not_finite"
    assert result.num_products == operator.num_applied >= first
    assert result.values.isnan().all()
    assert result.lower.isnan().all()
    assert math.isnan(result.upper)


def test_only_a_spent_budget_is_called_one():
    A = torch.diag(torch.tensor([3.0] + [0.0] * 298 + [-1e6], dtype=torch.float32))
    for seed in range(20):
        result = top_eigenvalues(Dense(A), seed=seed, bound_rtol=0.05, max_products=64)
        assert result.status == "converged" or result.num_products == 64


# Scale


@pytest.mark.parametrize("scale", [2.0**-90, 2.0**-60, 2.0**-20, 2.0**20, 2.0**60, 2.0**90])
def test_a_scale_that_float32_can_hold_scales_the_result(scale):
    A = symmetric(torch.linspace(-1, 1, 50)).float()
    plain, scaled = top_eigenvalues(Dense(A)), top_eigenvalues(Dense(A * scale))
    assert scaled.status == plain.status == "converged"
    assert torch.allclose(scaled.values / scale, plain.values, rtol=1e-5)
    assert torch.allclose(scaled.residuals / scale, plain.residuals, rtol=1e-2)


# Warm start


@pytest.mark.parametrize("k", [1, 3])
def test_a_warm_start_takes_few_products_when_the_matrix_moved_a_little(k):
    A = symmetric(torch.logspace(-3, 1, 200))
    E = symmetric(torch.linspace(-1, 1, 200), seed=1)
    cold = top_eigenvalues(Dense(A), k)
    warm = top_eigenvalues(Dense(A + 1e-2 * E), k, start=cold.warm_start)
    truth = descending(A + 1e-2 * E)[:k]
    assert warm.status == "converged"
    assert warm.upper_kind == "residual"
    assert warm.num_products <= k + 5 < cold.num_products
    assert ((warm.values - truth).abs() <= warm.residuals).all()


def turned(A, seed, angle):
    """A in a basis turned by a random small rotation."""
    S = randn(*A.shape, seed=seed)
    turn = torch.linalg.matrix_exp(angle * (S - S.T) / len(A) ** 0.5)
    return turn @ A @ turn.T


def follow(spectrum_at, num_moves, seed, num_guard_steps=1):
    """Warm results while the matrix moves: its spectrum along a path, its basis a little at random."""
    start, Q = None, rotation(120, seed)
    for i in range(num_moves + 1):
        A = Q @ (spectrum_at(i / num_moves)[:, None] * Q.T)
        result = top_eigenvalues(
            Dense(turned(A, seed=100 * seed + i, angle=1e-3)), start=start, seed=i, num_guard_steps=num_guard_steps
        )
        start = result.warm_start
        yield result


def crossing(t):
    return torch.cat([torch.tensor([3.0 - t, 2.0 + t]), torch.linspace(-1, 1, 118)]).double()


def rising(t):
    return torch.cat([torch.tensor([3.0, 2.5, 4.0 * t]), torch.linspace(-1, 1, 117)]).double()


def is_right(result, spectrum):
    return abs(float(result.values[0] - spectrum.max())) <= float(result.residuals[0])


@pytest.mark.parametrize("seed", range(4))
def test_warm_starts_end_at_a_second_eigenvalue_that_slowly_overtook_the_first(seed):
    results = list(follow(crossing, 30, seed))
    assert is_right(results[-1], crossing(1.0))
    assert abs(float(results[-1].vectors[:, 0] @ rotation(120, seed)[:, 1])) > 0.9
    assert sum(result.num_products for result in results[1:]) <= 6 * 30


@pytest.mark.parametrize("seed", range(4))
def test_warm_starts_miss_no_move_of_a_second_eigenvalue_that_overtakes_the_first(seed):
    results = follow(crossing, 30, seed)
    assert [i for i, result in enumerate(results) if not is_right(result, crossing(i / 30))] == []


@pytest.mark.parametrize("seed", range(4))
def test_two_guard_steps_find_a_mode_that_rose_out_of_the_bulk(seed):
    *_, last = follow(rising, 40, seed, num_guard_steps=2)
    assert is_right(last, rising(1.0))


CROWDED = [1.0, 0.99, 0.98, 0.97, 0.96, 0.951, 0.5, *torch.linspace(-1, 0.4, 53).tolist()]


@pytest.mark.parametrize(("k", "num_carried"), [(1, 5), (2, 6), (4, 6), (5, 6), (6, 7)])
@pytest.mark.parametrize("is_warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("max_basis", [None, 25])
def test_modes_that_may_take_their_turn_at_the_top_are_carried(k, num_carried, is_warm, max_basis):
    A = symmetric(CROWDED)
    truth = torch.linalg.eigh(A).eigenvectors.flip(1)[:, :num_carried]
    options = {"rtol": 1e-6, "num_guard_steps": 20, "max_products": 300, "max_basis": max_basis}
    result = solve_and_check(Dense(A), k, descending(A), start=randn(60, k + 1) if is_warm else None, **options)
    assert result.status == "converged"
    assert result.warm_start.shape == (len(A), num_carried)
    assert torch.allclose(result.warm_start[:, :k], result.vectors)
    assert torch.linalg.svdvals(truth.T @ result.warm_start)[-1] > 0.5


def test_one_vector_beyond_a_top_that_stands_apart_is_carried():
    A = symmetric([3.0, 2.0, *torch.linspace(-1, 1, 58).tolist()])
    crowded = torch.linalg.eigh(A).eigenvectors.flip(1)[:, :5]
    assert top_eigenvalues(Dense(A), start=crowded).warm_start.shape == (60, 2)


def taking_turns(t):
    """Five modes of nearly equal curvature, each at the top in its time."""
    phases = 2 * math.pi * (t - torch.arange(5, dtype=torch.float64) / 5)
    return torch.cat([3 + 0.05 * torch.cos(phases), torch.linspace(-1, 1, 115, dtype=torch.float64)])


def test_modes_that_are_carried_are_missed_less_often_when_they_take_turns(monkeypatch):
    def num_missed():
        paths = [list(follow(taking_turns, 40, seed)) for seed in range(3)]
        return sum(not is_right(result, taking_turns(i / 40)) for path in paths for i, result in enumerate(path))

    carried = num_missed()
    monkeypatch.setattr(look, "NEAR", -1.0)
    assert carried < 0.7 * num_missed()


GARBAGE = {
    "zeros": torch.zeros(20, 3),
    "NaN columns": torch.full((20, 3), NAN),
    "one NaN": torch.eye(20)[:, :3].clone().index_put_((torch.tensor(4), torch.tensor(1)), torch.tensor(NAN)),
    "infinite columns": torch.full((20, 3), INF),
    "dependent columns": torch.ones(20, 3),
    "no columns": torch.zeros(20, 0),
    "one column": torch.ones(20, 1),
    "more columns than rows": torch.eye(20).repeat(1, 2),
}
PLAIN_SPECTRA = {"spread": torch.linspace(-1, 4, 20).tolist(), "identity": [1.0] * 20, "zero": [0.0] * 20}


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("spectrum", PLAIN_SPECTRA)
@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_useless_start_does_no_harm(garbage, spectrum, k):
    A = symmetric(PLAIN_SPECTRA[spectrum])
    truth = descending(A)
    result = solve_and_check(Dense(A), k, truth, start=GARBAGE[garbage].double(), rtol=1e-6)
    assert result.status == "converged"
    assert torch.allclose(result.values, truth[:k], atol=1e-6)


@pytest.mark.parametrize("k", [1, 2])
def test_a_start_of_another_dtype_is_converted(k):
    A = symmetric(torch.linspace(-1, 4, 20))
    result = solve_and_check(Dense(A), k, descending(A), start=randn(20, 2).float())
    assert result.vectors.dtype == torch.float64


def test_a_start_is_not_written_to():
    start = randn(20, 2)
    before = start.clone()
    top_eigenvalues(Dense(symmetric(torch.linspace(-1, 4, 20))), start=start)
    assert torch.equal(start, before)


# Misuse


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 0}, r"k must be between 1 and p = 6; got 0"),
        ({"k": -1}, r"k must be between 1 and p = 6; got -1"),
        ({"k": 7}, r"k must be between 1 and p = 6; got 7"),
        ({"k": 3, "max_products": 2}, r"max_products must be at least k = 3; got 2"),
        ({"start": torch.zeros(5, 1)}, r"start must be \(6, j\); got \(5, 1\)"),
        ({"start": torch.zeros(6)}, r"start must be \(6, j\); got \(6,\)"),
        ({"start": torch.zeros(6, 1, 1)}, r"start must be \(6, j\); got \(6, 1, 1\)"),
    ],
)
def test_misuse_says_what_must_hold_and_what_was_given(wrong, message):
    with pytest.raises(ShapeError, match=message):
        top_eigenvalues(Dense(torch.eye(6)), **wrong)
