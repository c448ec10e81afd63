"""Operators made of operators, against the matrix each of them stands for."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from tests.reference.matrices import Counting, randn, symmetric
from tightrope.curvature import (
    Ascended,
    Dense,
    Hessian,
    Projected,
    Scaled,
    Shifted,
    Squared,
    Sum,
    condition_number,
    frobenius_norm,
    spectral_density,
    to_scipy,
    top_eigenvalues,
    trace,
)
from tightrope.errors import ShapeError

P = 9
EYE = torch.eye(P, dtype=torch.float64)
A, B = symmetric(torch.linspace(-2, 5, P), seed=1), symmetric(torch.linspace(0, 1, P) ** 3, seed=2)
DIAGONAL = torch.linspace(0.5, 2, P, dtype=torch.float64)
Q = torch.linalg.qr(randn(P, 3, seed=3)).Q
OFF = EYE - Q @ Q.T

COMPOSED = {
    "scaled": (lambda a, b: Scaled(a, DIAGONAL, 0.3), DIAGONAL[:, None] * (A + 0.3 * EYE) * DIAGONAL, 1),
    "ascended": (lambda a, b: Ascended(a, 0.3), A + 0.3 * A @ A, 2),
    "shifted": (lambda a, b: Shifted(a, -0.7), A - 0.7 * EYE, 1),
    "shifted by a diagonal": (lambda a, b: Shifted(a, DIAGONAL), A + torch.diag(DIAGONAL), 1),
    "squared": (lambda a, b: Squared(a), A @ A, 2),
    "sum": (lambda a, b: Sum([a, b]), A + B, 2),
    "weighted sum": (lambda a, b: Sum([a, b, a], [0.2, -3.0, 1.0]), 1.2 * A - 3 * B, 3),
    "projected": (lambda a, b: Projected(a, Q), OFF @ A @ OFF, 1),
    "projected off nothing": (lambda a, b: Projected(a, Q[:, :0]), A, 1),
    "square of a shifted sum": (
        lambda a, b: Squared(Shifted(Sum([a, Squared(b)]), 2.0)),
        torch.linalg.matrix_power(A + B @ B + 2 * EYE, 2),
        6,
    ),
    "scaled, ascended, off a subspace": (
        lambda a, b: Projected(Scaled(Ascended(a, 0.1), DIAGONAL), Q),
        OFF @ (DIAGONAL[:, None] * (A + 0.1 * A @ A) * DIAGONAL) @ OFF,
        2,
    ),
}


@pytest.fixture(params=COMPOSED, ids=str)
def composed(request):
    make, matrix, cost = COMPOSED[request.param]
    beneath = Counting(A), Counting(B)
    return make(*beneath), matrix, cost, beneath


def test_its_products_are_those_of_the_matrix_it_stands_for(composed):
    operator, matrix, _, _ = composed
    torch.testing.assert_close(operator @ EYE, matrix, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(operator @ EYE[0], matrix[0], rtol=1e-12, atol=1e-12)


def test_it_has_the_size_dtype_and_route_of_what_it_is_made_of(composed):
    operator, _, _, (a, _) = composed
    assert (operator.size, operator.dtype, operator.device, operator.route) == (P, a.dtype, a.device, "counting")


def test_its_cost_is_the_products_that_one_product_takes_beneath(composed):
    operator, _, cost, beneath = composed
    operator @ EYE[0]
    assert operator.cost == cost == sum(each.num_applied for each in beneath)


def test_its_inner_products_are_those_of_the_operator_beneath(composed):
    operator, _, _, (a, _) = composed
    a.inner = lambda U, V: 5 * U.T @ V
    assert torch.equal(operator.inner(EYE, EYE), 5 * EYE)


def test_its_top_eigenvalues_are_those_of_the_matrix(composed):
    operator, matrix, _, _ = composed
    found = top_eigenvalues(operator, k=2, rtol=1e-10)
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(matrix).flip(0)[:2], rtol=1e-9, atol=1e-9)


def test_it_refuses_vectors_that_do_not_fit(composed):
    with pytest.raises(ShapeError, match=rf"needs vectors \({P},\)"):
        composed[0] @ torch.ones(P - 1, dtype=torch.float64)


def test_it_does_not_change_its_vectors(composed):
    v = randn(P, seed=5)
    before = v.clone()
    composed[0] @ v
    assert torch.equal(v, before)


def test_a_weighted_sum_over_batches_is_the_hessian_of_all_examples():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    x = randn(10, 3)

    def loss_fn(model, batch):
        return (model(batch) ** 2).mean()

    batches = x[:7], x[7:]
    mean = Sum([Hessian(model, loss_fn, batch) for batch in batches], [len(batch) / len(x) for batch in batches])
    v = randn(mean.size, seed=1)
    torch.testing.assert_close(mean @ v, Hessian(model, loss_fn, x) @ v, rtol=1e-12, atol=1e-12)
    assert mean.route == "kept graph"


def test_off_the_top_eigenvector_the_second_is_the_top():
    vectors = top_eigenvalues(Dense(A), rtol=1e-12).vectors
    found = top_eigenvalues(Projected(Dense(A), vectors), rtol=1e-10)
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(A).flip(0)[1:2], rtol=1e-9, atol=1e-9)


def test_off_everything_nothing_is_left():
    assert float((Projected(Dense(A), EYE) @ randn(P, seed=1)).abs().max()) < 1e-14


def test_routes_that_differ_are_all_named():
    one, other = Counting(A), Dense(B)
    assert Sum([one, other, one]).route == "counting + dense"


# To scipy


def test_scipy_finds_the_same_eigenvalues():
    found = scipy.sparse.linalg.eigsh(to_scipy(Dense(A)), k=3, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(found), torch.linalg.eigvalsh(A)[-3:], rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_scipy_multiplies_vectors_columns_and_blocks(dtype):
    operator = to_scipy(Dense(A.to(dtype)))
    V = randn(P, 2, seed=1).numpy().astype(operator.dtype)
    rtol = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}[dtype]
    for v in (V, V[:, 0], V[:, :1], np.asfortranarray(V)):
        for product in (operator @ v, operator.T @ v):
            assert product.shape == v.shape
            assert product.dtype == operator.dtype == (np.float64 if dtype == torch.float64 else np.float32)
            np.testing.assert_allclose(product, A.numpy() @ v, rtol=rtol, atol=10 * rtol)


def test_scipy_is_loaded_only_when_it_is_asked_for():
    code = "import sys, tightrope.curvature; print('scipy' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


# Bad input

REFUSED = {
    "shifted": (lambda: Shifted(Dense(A), torch.ones(3)), r"Shifted: shift must be a number or \(9,\); got \(3,\)"),
    "sum of nothing": (lambda: Sum([]), "Sum: there must be at least one operator.*got 0 operators and 0 weights"),
    "sum short of a weight": (lambda: Sum([Dense(A), Dense(B)], [1.0]), "got 2 operators and 1 weights"),
    "sum of sizes": (lambda: Sum([Dense(A), Dense(EYE[:3, :3])]), r"share one size.*\(3, .*\(9, "),
    "sum of dtypes": (lambda: Sum([Dense(A), Dense(B.float())]), "torch.float32.*torch.float64"),
    "projected off a vector": (lambda: Projected(Dense(A), Q[:, 0]), r"Projected: Q must be \(9, j\); got \(9,\)"),
    "projected off no basis": (lambda: Projected(Dense(A), 2 * Q), "off the identity by 3.0e\\+00. Take torch.linalg"),
    "projected off NaN": (lambda: Projected(Dense(A), Q * float("nan")), "off the identity by nan"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line(case):
    make, message = REFUSED[case]
    with pytest.raises(ShapeError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


# Solvers take every reduction from the operator


def test_krylov_solvers_reduce_by_the_operators_inner_product_alone():
    """Where U'V is a quarter of inner(U, V), a norm or a product taken past the operator would show."""
    plain, other = Dense(A), Dense(A)
    other.inner = lambda U, V: 4 * U.T @ V
    for start in (None, randn(P, 2, seed=7)):
        options = {"k": 2, "rtol": 1e-8, "start": start, "max_products": 6}
        one, same = top_eigenvalues(plain, **options), top_eigenvalues(other, **options)
        torch.testing.assert_close(same.values, one.values, rtol=1e-12, atol=0)
        torch.testing.assert_close(same.residuals, one.residuals, rtol=1e-9, atol=0)
        assert (same.num_products, float(one.residuals.min()) > 1e-6) == (one.num_products, True)
    one, same = (spectral_density(each, num_steps=5) for each in (plain, other))
    torch.testing.assert_close(same.nodes, one.nodes, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(same.weights, one.weights, rtol=1e-12, atol=1e-12)
    one, same = (condition_number(Shifted(each, 3.0), num_products=5) for each in (plain, other))
    assert same.lower == pytest.approx(one.lower, rel=1e-12)


def test_random_sums_reduce_by_the_operators_inner_product_alone():
    """Of a matrix of rank 2, all lies in the sketched range; its forms are free of the scale of inner products."""
    low = symmetric([3.0, -2.0] + [0.0] * 20)
    other = Dense(low)
    other.inner = lambda U, V: 4 * U.T @ V
    assert trace(other, num_products=12).value == pytest.approx(1.0, rel=1e-12)
    assert frobenius_norm(other, num_products=12).value == pytest.approx(13**0.5, rel=1e-12)
