"""Trace, norm, diagonal and condition number against the matrix, and their errors against their claims."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from scipy.stats import t as student

from tests.reference.matrices import SPECTRA, Counting, randn, symmetric
from tightrope.curvature import (
    Dense,
    Hessian,
    Scaled,
    condition_number,
    diagonal,
    effective_dimension,
    frobenius_norm,
    spectral_density,
    trace,
)
from tightrope.errors import ConfigError

TRUTHS = {trace: lambda A: float(A.trace()), frobenius_norm: lambda A: float(A.norm())}
SUMS = pytest.mark.parametrize("tool", TRUTHS, ids=["trace", "frobenius_norm"])


@SUMS
@pytest.mark.parametrize("name", SPECTRA)
def test_with_a_product_a_coordinate_it_is_exact(tool, name):
    A = symmetric(SPECTRA[name])
    operator = Counting(A)
    found = tool(operator, num_products=max(6, len(A)))
    assert found.value == pytest.approx(TRUTHS[tool](A), rel=1e-13, abs=1e-13)
    assert (found.status, found.standard_error, found.num_samples) == ("exact", 0.0, 0)
    assert found.num_products == operator.num_applied == len(A)


@SUMS
@pytest.mark.parametrize("name", ["zero", "rank one", "rank three, indefinite"])
def test_of_low_rank_it_is_exact_to_rounding(tool, name):
    A = symmetric(SPECTRA[name])
    operator = Counting(A)
    found = tool(operator, num_products=12)
    assert found.value == pytest.approx(TRUTHS[tool](A), abs=1e-12)
    assert found.status == "estimate"
    assert found.standard_error < 1e-12
    assert found.num_products == operator.num_applied <= 12


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    eigenvalues=st.lists(st.sampled_from([0.0, 1.0, 1 + 1e-13, -1.0, 1e-9, 1e5, -1e5, 3.0]), min_size=1, max_size=14),
    num_products=st.integers(6, 20),
    seed=st.integers(0, 2**31),
)
def test_of_any_matrix_whose_sketch_spans_its_range_it_is_exact(eigenvalues, num_products, seed):
    A = symmetric(eigenvalues, seed)
    rank = sum(value != 0 for value in eigenvalues)
    for tool, truth in TRUTHS.items():
        operator = Counting(A)
        found = tool(operator, num_products=num_products, seed=seed)
        assert found.num_products == operator.num_applied <= num_products
        assert math.isfinite(found.value)
        assert found.standard_error >= 0
        if found.status == "exact" or rank <= num_products // 3 - 3:
            assert found.value == pytest.approx(truth(A), abs=1e-9 * max(1.0, float(A.abs().max())))


# Standard errors: an interval of Student's t holds the truth as often as it says.

NUM_TRIALS = 300
BROAD = symmetric(torch.linspace(-1, 2, 120), seed=1)
STEEP = symmetric(1 / torch.arange(1, 121, dtype=torch.float64), seed=2)


@SUMS
@pytest.mark.parametrize("A", [BROAD, STEEP], ids=["broad", "steep"])
def test_the_standard_error_covers_the_truth_as_often_as_it_should(tool, A):
    found = [tool(Dense(A), num_products=48, seed=seed) for seed in range(NUM_TRIALS)]
    errors = torch.tensor([each.value for each in found]) - TRUTHS[tool](A)
    z = errors / torch.tensor([each.standard_error for each in found])
    assert all((each.num_samples, each.status) == (16, "estimate") for each in found)
    for confidence in (0.5, 0.9):
        num_inside = int((z.abs() <= student.ppf((1 + confidence) / 2, 15)).sum())
        assert binomtest(num_inside, NUM_TRIALS, confidence).pvalue > 1e-3
    assert abs(float(errors.mean())) <= 4 * float(errors.std()) / NUM_TRIALS**0.5


def test_where_eigenvalues_decay_the_error_is_far_below_that_of_plain_sampling():
    A = symmetric(1 / torch.arange(1, 121, dtype=torch.float64) ** 2, seed=2)

    def rms(estimates):
        return float((torch.tensor(estimates) - float(A.trace())).pow(2).mean().sqrt())

    plain = [float(diagonal(Dense(A), num_vectors=60, seed=seed).values.sum()) for seed in range(50)]
    deflated = {num: [trace(Dense(A), num_products=num, seed=seed).value for seed in range(50)] for num in (30, 60)}
    assert rms(deflated[60]) < rms(plain) / 20
    assert rms(deflated[60]) < rms(deflated[30]) / 2


# Diagonal


def test_the_standard_errors_of_a_diagonal_cover_its_entries_as_often_as_they_should():
    num_vectors, num_trials = 40, 60
    found = [diagonal(Dense(BROAD), num_vectors=num_vectors, seed=seed) for seed in range(num_trials)]
    truth = BROAD.diagonal()
    values = torch.stack([each.values for each in found])
    z = (values - truth) / torch.stack([each.standard_errors for each in found])
    for confidence in (0.5, 0.9):
        inside = (z.abs() <= student.ppf((1 + confidence) / 2, num_vectors - 1)).double().mean(0)
        # Entries of one trial depend on each other: each is judged over trials, and their mean more loosely.
        assert float(inside.mean()) == pytest.approx(confidence, abs=0.03)
        assert min(binomtest(round(share * num_trials), num_trials, confidence).pvalue for share in inside.tolist()) > (
            1e-6
        )
    variance = ((BROAD**2).sum(0) - truth**2) / num_vectors
    mean_square = torch.stack([each.standard_errors**2 for each in found]).mean(0)
    torch.testing.assert_close(mean_square, variance, rtol=0.15, atol=0)
    assert float(((values.mean(0) - truth) / (variance / num_trials).sqrt()).abs().max()) < 5


def test_of_a_diagonal_matrix_every_random_vector_tells_all():
    lam = torch.logspace(-8, 0, 30, dtype=torch.float64)
    found = diagonal(Dense(torch.diag(lam)), num_vectors=2)
    torch.testing.assert_close(found.values, lam, rtol=1e-14, atol=0)
    assert float((found.standard_errors / lam).max()) < 1e-14
    assert found.num_products == 2


@pytest.mark.parametrize("name", SPECTRA)
def test_with_a_product_a_coordinate_the_diagonal_is_exact(name):
    A = symmetric(SPECTRA[name])
    operator = Counting(A)
    found = diagonal(operator)
    assert torch.equal(found.standard_errors, torch.zeros(len(A)).double())
    assert found.status == "exact"
    assert found.num_products == operator.num_applied == len(A)
    torch.testing.assert_close(found.values, A.diagonal(), rtol=1e-14, atol=0)


# Condition number


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    exponents=st.lists(st.one_of(st.floats(-4, 4), st.sampled_from([0.0, 1e-13, -4.0])), min_size=1, max_size=12),
    num_products=st.integers(1, 14),
    seed=st.integers(0, 2**31),
)
def test_the_condition_number_is_never_overestimated(exponents, num_products, seed):
    A = symmetric([10**exponent for exponent in exponents], seed)
    eigenvalues = torch.linalg.eigvalsh(A)
    largest, smallest = float(eigenvalues[-1]), float(eigenvalues[0])
    slack = 8 * torch.finfo(torch.float64).eps * largest  # of the dense truth itself
    operator = Counting(A)
    found = condition_number(operator, num_products=num_products, seed=seed)
    assert found.num_products == operator.num_applied <= min(num_products, len(A))
    assert 1 <= found.lower <= (largest + slack) / (smallest - slack)
    assert smallest - slack <= found.smallest <= found.largest <= largest + slack
    assert found.status == ("exact" if found.num_products == len(A) else "lower_bound")
    if found.status == "exact":
        assert found.lower == pytest.approx(largest / smallest, rel=1e-5)


def test_a_condition_number_of_eight_decades_is_found_with_all_products_and_underestimated_with_few():
    A = symmetric(torch.logspace(-8, 0, 40, dtype=torch.float64))
    assert condition_number(Dense(A)).lower == pytest.approx(1e8, rel=1e-5)
    few = condition_number(Dense(A), num_products=8)
    assert few.status == "lower_bound"
    assert 10 < few.lower < 1e6


def test_the_scaling_that_equalises_an_operator_conditions_it():
    lam = torch.logspace(-4, 4, 30, dtype=torch.float64)
    assert condition_number(Scaled(Dense(torch.diag(lam)), lam.rsqrt())).lower == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    "eigenvalues", [[1.0, 2.0, -1e-3], [-1.0, -2.0], [0.0] * 5, [3.0, 0.0], [-5.0], [7.0] + [0.0] * 9]
)
def test_what_is_not_positive_has_no_condition_number(eigenvalues):
    found = condition_number(Dense(symmetric(eigenvalues)))
    assert found.status == "not_positive" or (found.status == "lower_bound" and found.lower > 1e14)
    assert math.isnan(found.lower) == (found.status == "not_positive")


def test_an_eigenvalue_below_zero_that_was_not_met_leaves_a_bound_that_says_if():
    A = symmetric([-1e-6, *torch.linspace(1, 2, 60).tolist()])
    assert condition_number(Dense(A), num_products=4).status == "lower_bound"
    assert condition_number(Dense(A)).status == "not_positive"


# Of a network


def test_a_networks_hessian_has_the_trace_norm_and_density_that_its_matrix_has():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 12), torch.nn.Tanh(), torch.nn.Linear(12, 4)).double()
    x, y = randn(40, 12, seed=1), torch.arange(40) % 4
    H = Hessian(model, lambda model, batch: torch.nn.functional.cross_entropy(model(batch[0]), batch[1]), (x, y))
    matrix = H @ torch.eye(H.size, dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    density = spectral_density(H, num_vectors=32, num_steps=30)
    alpha = 1e-2
    positive = eigenvalues.clamp(min=0)
    pairs = [
        (trace(H), float(matrix.trace())),
        (frobenius_norm(H), float(matrix.norm())),
        (density.moment(1), float(eigenvalues.mean())),
        (density.mass(0.02, math.inf), float((eigenvalues > 0.02).double().mean())),
        (effective_dimension(density, alpha), float((positive / (positive + alpha)).sum())),
    ]
    for found, truth in pairs:
        assert 0 < found.standard_error < 0.2 * abs(truth)
        reach = 5 * found.standard_error
        lower, upper = getattr(found, "lower", found.value), getattr(found, "upper", found.value)
        assert lower - reach < truth < upper + reach
    entries = diagonal(H)
    z = (entries.values - matrix.diagonal()) / entries.standard_errors
    assert float(z.abs().max()) < 5
    assert float(density.nodes.max()) == pytest.approx(float(eigenvalues[-1]), rel=1e-6)


# What surrounds them

TOOLS = {
    "trace": lambda operator, seed=0: trace(operator, num_products=12, seed=seed),
    "frobenius_norm": lambda operator, seed=0: frobenius_norm(operator, num_products=12, seed=seed),
    "diagonal": lambda operator, seed=0: diagonal(operator, num_vectors=12, seed=seed),
    "condition_number": lambda operator, seed=0: condition_number(operator, num_products=12, seed=seed),
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("first", [1, 3, 6, 12])
@pytest.mark.parametrize("p", [5, 20])
def test_products_that_are_not_finite_are_a_status(tool, bad, first, p):
    found = TOOLS[tool](Counting(symmetric(torch.linspace(1, 2, p)), min(first, p), bad))
    assert found.status == "not_finite"
    if hasattr(found, "value"):
        assert math.isnan(found.value)
        assert math.isnan(found.standard_error)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("which", range(1, 13))
def test_one_product_that_is_not_finite_is_enough(tool, which):
    operator = Counting(symmetric(torch.linspace(1, 2, 20)))
    plain = operator.apply
    operator.apply = lambda v: plain(v) * (math.nan if operator.num_applied == which else 1.0)
    assert TOOLS[tool](operator).status == "not_finite"


@pytest.mark.parametrize("tool", TOOLS)
def test_a_seed_fixes_every_bit_and_the_global_random_state_is_not_touched(tool):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, same, other = (TOOLS[tool](Dense(BROAD), seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert repr(one) == repr(same)
    assert repr(one).replace("seed=5", "") != repr(other).replace("seed=6", "")


@pytest.mark.parametrize("tool", TOOLS)
def test_in_float32_it_is_as_good_as_float32(tool):
    A = symmetric(torch.linspace(1, 2, 50))
    single, double = TOOLS[tool](Dense(A.float())), TOOLS[tool](Dense(A))
    for name in ("value", "standard_error", "values", "lower"):
        if hasattr(double, name):
            torch.testing.assert_close(
                torch.as_tensor(getattr(single, name)).double(),
                torch.as_tensor(getattr(double, name)).double(),
                rtol=1e-4,
                atol=1e-4,
            )


@pytest.mark.parametrize("p", [10, 60])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_beyond_the_range_of_float32_are_no_harm(scale, p):
    A = symmetric(torch.linspace(1, 2, p))
    found = frobenius_norm(Dense((scale * A).float()), num_products=12)
    assert found.value == pytest.approx(scale * float(A.norm()), rel=0.2)


@pytest.mark.parametrize("tool", ["trace", "frobenius_norm", "condition_number"])
def test_a_result_goes_through_json(tool):
    found = TOOLS[tool](Dense(BROAD @ BROAD))
    plain = json.loads(json.dumps(found.to_dict()))
    assert type(found)(**plain) == found


REFUSED = {
    "trace": (lambda A: trace(A, num_products=5), "trace: num_products must be at least 6; got 5. Hutch"),
    "norm": (lambda A: frobenius_norm(A, num_products=0), "frobenius_norm: num_products must be at least 6; got 0"),
    "diagonal": (lambda A: diagonal(A, num_vectors=1), "num_vectors must be at least 2; got 1. An error needs two"),
    "condition": (lambda A: condition_number(A, num_products=0), "num_products must be at least 1; got 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_settings_are_refused_in_one_line(case):
    make, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message) as raised:
        make(Dense(torch.eye(3)))
    assert "\n" not in str(raised.value)
