"""Stochastic Lanczos quadrature against dense eigendecompositions, and its errors against their claims."""

import json
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from scipy.stats import t as student

from tests.reference.matrices import SPECTRA, Counting, randn, symmetric
from tightrope.curvature import Dense, effective_dimension, spectral_density
from tightrope.curvature.draws import gaussian, seeded
from tightrope.errors import ConfigError

INF = math.inf


def overlaps(A, num_vectors, seed):
    """True eigenvalues (p,), and the weight each random direction of that seed puts on them (num_vectors, p)."""
    eigenvalues, U = torch.linalg.eigh(A.double())
    V = directions(len(A), num_vectors, seed)
    return eigenvalues, (V @ U) ** 2 / (V**2).sum(1, keepdim=True)


def directions(p, num, seed):
    """The Gaussian directions (num, p) that a seed draws."""
    generator = seeded(seed)
    return torch.cat([gaussian(Dense(torch.eye(p).double()), 1, generator).T for _ in range(num)])


def gap_edges(eigenvalues):
    """Numbers that lie clear of every eigenvalue, and both infinities."""
    clear = 1e-6 * max(1.0, float(eigenvalues.abs().max()))
    inside = [float(a + b) / 2 for a, b in pairwise(eigenvalues) if b - a > 2 * clear]
    return [-INF, float(eigenvalues[0]) - 1, *inside, float(eigenvalues[-1]) + 1, INF]


def check_every_claim(A, num_vectors, num_steps, seed):
    """Hold a density against what its own directions see of the true spectrum, and return it."""
    operator = Counting(A)
    density = spectral_density(operator, num_vectors=num_vectors, num_steps=num_steps, seed=seed)
    eigenvalues, tau = overlaps(A, num_vectors, seed)
    scale = max(float(eigenvalues.abs().max()), 1e-300)
    p, m = len(A), min(num_steps, len(A))

    assert (density.size, density.status, density.seed) == (p, "estimate", seed)
    assert density.num_products == operator.num_applied <= num_vectors * m
    assert density.nodes.shape == density.weights.shape == (num_vectors, m)
    assert (density.nodes.diff(dim=1) >= 0).all()
    assert (density.weights >= 0).all()
    torch.testing.assert_close(density.weights.sum(1), torch.ones(num_vectors).double(), rtol=0, atol=1e-12)
    assert float(density.nodes.min()) >= float(eigenvalues[0]) - 1e-12 * scale
    assert float(density.nodes.max()) <= float(eigenvalues[-1]) + 1e-12 * scale

    edges = gap_edges(eigenvalues)
    for i, low in enumerate(edges):
        for high in edges[i:]:
            found = density.mass(low, high)
            truth = float((tau * ((eigenvalues >= low) & (eigenvalues <= high))).sum(1).mean())
            assert found.lower - 1e-9 <= truth <= found.upper + 1e-9
            assert 0 <= found.lower <= found.value + 1e-12 <= found.upper + 2e-12 <= 1 + 3e-12
    for alpha in (1e-3 * scale, scale):
        found = effective_dimension(density, alpha)
        positive = eigenvalues.clamp(min=0)
        truth = p * float((tau * positive / (positive + alpha)).sum(1).mean())
        assert found.lower - 1e-9 * p <= truth <= found.upper + 1e-9 * p
        assert found.lower <= found.value + 1e-12 * p <= found.upper + 2e-12 * p
    for order in range(min(2 * m, 6)):
        truth = float((tau * eigenvalues**order).sum(1).mean())
        assert density.moment(order).value == pytest.approx(truth, abs=1e-11 * scale**order)
    return density


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("num_steps", [1, 2, 5, 11, 24])
def test_every_claim_is_true_of_a_hard_spectrum(name, num_steps):
    for seed in range(2):
        check_every_claim(symmetric(SPECTRA[name]), 3, num_steps, seed)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    eigenvalues=st.lists(
        st.one_of(
            st.floats(-10, 10, allow_subnormal=False), st.sampled_from([0.0, 1.0, 1 + 1e-13, -1.0, 1e-9, 1e4, -1e4])
        ),
        min_size=1,
        max_size=12,
    ),
    num_steps=st.integers(1, 14),
    num_vectors=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_every_claim_is_true_of_any_symmetric_matrix(eigenvalues, num_steps, num_vectors, seed):
    check_every_claim(symmetric(eigenvalues, seed), num_vectors, num_steps, seed)


def test_with_all_products_the_quadrature_is_exact_and_says_so():
    A = symmetric(torch.linspace(-1, 2, 12))
    density = spectral_density(Dense(A), num_vectors=3, num_steps=99)
    eigenvalues, tau = overlaps(A, 3, 0)
    assert density.is_closed.all()
    torch.testing.assert_close(density.nodes, eigenvalues.expand(3, 12), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(density.weights, tau, rtol=1e-8, atol=1e-10)
    found = density.mass(0, 1)
    assert found.lower == found.value == found.upper


def test_more_steps_tighten_the_bounds_to_the_truth():
    A = symmetric(torch.linspace(-1, 2, 200))
    widths = []
    for num_steps in (4, 12, 36):
        found = spectral_density(Dense(A), num_steps=num_steps).mass(0.5, INF)
        widths.append(found.upper - found.lower)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.12 < 0.5 < widths[0]


def test_eigenvalues_of_one_value_are_one_node_of_weight_one():
    density = spectral_density(Dense(3 * torch.eye(50).double()), num_vectors=2, num_steps=8)
    assert density.is_closed.all()
    assert density.num_products == 2
    torch.testing.assert_close(density.nodes, torch.full((2, 8), 3.0).double(), rtol=1e-14, atol=0)
    assert torch.equal(density.weights, torch.eye(8)[:1].double().expand(2, 8))
    assert density.mass(2.9, 3.1).to_dict() == {"value": 1.0, "standard_error": 0.0, "lower": 1.0, "upper": 1.0}


def test_outliers_are_found_to_their_digits_before_the_bulk_is():
    A = symmetric([50.0, -20.0, *torch.linspace(-1, 1, 198).tolist()])
    nodes = spectral_density(Dense(A), num_steps=10, num_vectors=2).nodes
    torch.testing.assert_close(nodes[:, [0, -1]], torch.tensor([[-20.0, 50.0]] * 2).double(), rtol=1e-10, atol=0)


# Standard errors: over directions, an interval of Student's t holds the truth as often as it says.

NUM_TRIALS, NUM_VECTORS = 200, 6
BULKS = symmetric(torch.cat([torch.linspace(-0.2, 0.2, 50), torch.linspace(2, 3, 30), torch.tensor([9.0] * 4)]), 1)


@pytest.fixture(scope="module")
def trials():
    return [
        spectral_density(Dense(BULKS), num_vectors=NUM_VECTORS, num_steps=10, seed=seed) for seed in range(NUM_TRIALS)
    ]


def truth_about_bulks(fn):
    return float(fn(torch.linalg.eigvalsh(BULKS)).mean())


CLAIMS = {
    "mean": (lambda density: density.moment(1), truth_about_bulks(lambda x: x)),
    "third moment": (lambda density: density.moment(3), truth_about_bulks(lambda x: x**3)),
    "share of the middle": (lambda density: density.mass(1, 5), 30 / 84),
    "share below": (lambda density: density.mass(-INF, 1), 50 / 84),
    "share of the outliers": (lambda density: density.mass(5, INF), 4 / 84),
    "effective dimension": (
        lambda density: effective_dimension(density, 1.0),
        84 * truth_about_bulks(lambda x: x.clamp(min=0) / (x.clamp(min=0) + 1)),
    ),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_standard_error_covers_the_truth_as_often_as_it_should(trials, claim):
    estimate, truth = CLAIMS[claim]
    found = [estimate(density) for density in trials]
    z = torch.tensor([(each.value - truth) / each.standard_error for each in found])
    for confidence in (0.5, 0.9):
        num_inside = int((z.abs() <= student.ppf((1 + confidence) / 2, NUM_VECTORS - 1)).sum())
        assert binomtest(num_inside, NUM_TRIALS, confidence).pvalue > 1e-3
    values = torch.tensor([each.value for each in found])
    assert abs(float(values.mean()) - truth) <= 4 * float(values.std()) / NUM_TRIALS**0.5


def test_one_direction_has_no_standard_error():
    density = spectral_density(Dense(BULKS), num_vectors=1, num_steps=10)
    assert math.isnan(density.moment(1).standard_error)
    assert math.isnan(density.mass(0, 1).standard_error)
    assert density.smoothed()[2].isnan().all()


# The smoothed density


def test_the_smoothed_density_is_a_gaussian_at_every_node():
    density = spectral_density(Dense(BULKS), num_vectors=2, num_steps=7)
    grid, values, errors = density.smoothed(width=0.3, num_points=50)
    rows = [
        sum(w * norm.pdf(grid.numpy(), x, 0.3) for x, w in zip(theta.tolist(), tau.tolist(), strict=True))
        for theta, tau in zip(density.nodes, density.weights, strict=True)
    ]
    torch.testing.assert_close(values, torch.tensor(sum(rows) / 2), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(errors, torch.tensor(abs(rows[0] - rows[1]) / 2), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_smoothed_density_has_integral_one_for_every_spectrum(name):
    grid, values, _ = spectral_density(Dense(symmetric(SPECTRA[name])), num_steps=9).smoothed()
    assert float(torch.trapezoid(values, grid)) == pytest.approx(1, abs=1e-3)


def test_a_semicircle_is_seen_as_one():
    p = 400
    G = randn(p, p)
    A = (G + G.T) / (2 * p) ** 0.5
    grid, values, errors = spectral_density(Dense(A), num_vectors=64, num_steps=40).smoothed(width=0.2)
    truth = torch.tensor(norm.pdf(grid[:, None].numpy(), torch.linalg.eigvalsh(A).numpy(), 0.2).mean(1))
    assert float(errors.max()) < 0.025 * float(truth.max())
    assert float(((values - truth).abs() / errors.clamp(min=1e-4)).max()) < 5


# What surrounds it


@pytest.mark.parametrize("first", [1, 4, 12])
@pytest.mark.parametrize("bad", [math.nan, INF])
def test_products_that_are_not_finite_are_a_status(first, bad):
    density = spectral_density(Counting(BULKS, first, bad), num_vectors=3, num_steps=5)
    assert density.status == "not_finite"
    assert density.num_products == first
    for found in (density.moment(1), density.mass(0, INF), density.mass(-INF, INF), effective_dimension(density, 1.0)):
        assert math.isnan(found.value)
        assert math.isnan(found.lower)
        assert math.isnan(found.upper)
    assert density.smoothed()[1].isnan().all()


def test_a_seed_fixes_every_bit_and_the_global_random_state_is_not_touched():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, same, other = (spectral_density(Dense(BULKS), num_steps=6, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.nodes, same.nodes)
    assert torch.equal(one.weights, same.weights)
    assert not torch.equal(one.nodes, other.nodes)


def test_a_matrix_drawn_from_the_same_seed_is_independent_of_the_directions():
    """From the same draws, the first direction would be the matrix's first row."""
    p, seed = 30, 3
    first = torch.randn(p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    cosine = torch.nn.functional.cosine_similarity(first[None], directions(p, 4, seed))
    assert float(cosine.abs().max()) < 0.5


def test_in_float32_it_is_as_good_as_float32():
    one = spectral_density(Dense(BULKS), num_steps=8)
    single = spectral_density(Dense(BULKS.float()), num_steps=8)
    assert single.nodes.dtype == torch.float64
    torch.testing.assert_close(single.nodes[:, -1], one.nodes[:, -1], rtol=1e-6, atol=0)
    for order in (1, 2, 3, 9):
        assert single.moment(order).value == pytest.approx(one.moment(order).value, rel=1e-5)


def test_it_goes_through_json_and_holds_what_a_plot_needs():
    density = spectral_density(Dense(BULKS), num_vectors=2, num_steps=5)
    plain = json.loads(json.dumps(density.to_dict()))
    grid, values, errors = density.smoothed()
    assert (plain["size"], plain["num_products"], plain["seed"], plain["route"]) == (84, 10, 0, "dense")
    assert plain["grid"] == grid.tolist()
    assert plain["density"] == values.tolist()
    assert plain["density_standard_error"] == errors.tolist()
    assert plain["nodes"] == density.nodes.tolist()
    assert plain["weights"] == density.weights.tolist()
    assert plain["is_closed"] == [False, False]
    assert plain["mean"]["value"] == density.moment(1).value


REFUSED = {
    "no vectors": (
        lambda: spectral_density(Dense(BULKS), num_vectors=0),
        "num_vectors must be a whole number, at least 1; got 0",
    ),
    "no steps": (
        lambda: spectral_density(Dense(BULKS), num_steps=0),
        "num_steps must be a whole number, at least 1; got 0",
    ),
    "order too high": (lambda: small().moment(6), "order must be 0 to 5; got 6"),
    "order between": (lambda: small().moment(1.5), "order must be 0 to 5; got 1.5"),
    "interval reversed": (lambda: small().mass(1, 0), r"low must be at most high; got \[1, 0\]. Swap them"),
    "interval of NaN": (lambda: small().mass(math.nan, 0), "low must be at most high"),
    "width zero": (lambda: small().smoothed(width=0.0), "width must be above 0; got 0.0"),
    "alpha zero": (lambda: effective_dimension(small(), 0.0), "alpha must be above 0; got 0.0"),
    "alpha NaN": (lambda: effective_dimension(small(), math.nan), "alpha must be above 0; got nan"),
}


def small():
    return spectral_density(Dense(BULKS), num_vectors=1, num_steps=3)


@pytest.mark.parametrize("case", REFUSED)
def test_bad_settings_are_refused_in_one_line(case):
    make, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)
