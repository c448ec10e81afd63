"""Every operator refuses bad input in one line, and of a loss that is not finite says NaN and nothing else."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tightrope.curvature import (
    Dense,
    FiniteDifference,
    Fisher,
    GaussNewton,
    Hessian,
    MicroBatches,
    RebuiltHessian,
    Scaled,
    block_eigenvalues,
    condition_number,
    diagonal,
    extreme_eigenvalues,
    frobenius_norm,
    hessian,
    spectral_density,
    to_scipy,
    top_eigenvalues,
    trace,
)
from tightrope.errors import ConfigError, ShapeError

from .modules import case, classes

NAN, INF = math.nan, math.inf


@pytest.fixture(autouse=True)
def _double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def of_loss(make, **settings):
    return lambda c: make(c.model, lambda m, b: c.criterion(c.forward(m, b), b), c.batch, **settings)


def of_outputs(make, **settings):
    return lambda c: make(c.model, c.forward, c.criterion, c.batch, **settings)


OF_LOSS = {
    "Hessian": of_loss(Hessian),
    "chunks": of_loss(Hessian, chunk_size=4),
    "RebuiltHessian": of_loss(RebuiltHessian),
    "FiniteDifference": of_loss(FiniteDifference),
    "hessian": of_loss(hessian),
}
OF_OUTPUTS = {
    "GaussNewton": of_outputs(GaussNewton),
    "Fisher": of_outputs(Fisher),
    "empirical Fisher": of_outputs(Fisher, empirical=True),
    "sampled Fisher": of_outputs(Fisher, num_samples=2),
    "normal Fisher": of_outputs(Fisher, distribution="normal"),
}
OPERATORS = OF_LOSS | OF_OUTPUTS


def filled(value, where):
    """A case with this value in its inputs, its targets or a weight, or added to or multiplied with its criterion."""
    c = case("MLP", "cross-entropy" if where in ("inputs", "weight") else "mean of squares")
    x, y = c.batch
    if where == "inputs":
        return c._replace(batch=(x * value, y))
    if where == "targets":
        return c._replace(batch=(x, y * value))
    if where == "weight":
        c.model[0].weight.data[0, 0] = value
        return c
    if where == "factor":
        return c._replace(criterion=lambda z, batch: value * c.criterion(z, batch))
    return c._replace(criterion=lambda z, batch: c.criterion(z, batch) + value)


@pytest.mark.parametrize("where", ["inputs", "targets", "weight", "factor", "term"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_loss_that_is_nan_has_products_that_are_nan_and_a_status(operator, where):
    H = OPERATORS[operator](filled(NAN, where))
    assert math.isnan(H.loss)
    assert not H.gradient.isfinite().any()
    assert (H @ torch.ones(H.size)).isnan().all()
    result = top_eigenvalues(H)
    assert result.status == "not_finite"
    assert math.isnan(float(result.values[0]))


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_loss_that_overflows_has_products_that_are_nan(operator):
    """Its derivatives here are finite, and of no loss."""
    H = OPERATORS[operator](filled(INF, "term"))
    assert not math.isfinite(H.loss)
    assert (H @ torch.ones(H.size)).isnan().all()


def test_a_linear_loss_that_is_nan_has_products_that_are_nan():
    model, x = nn.Linear(3, 1), torch.randn(4, 3)
    for H in (
        Hessian(model, lambda model, x: NAN * model(x).mean(), x),
        GaussNewton(model, lambda model, x: model(x), lambda z, x: NAN * z.mean(), x),
    ):
        assert (H @ torch.ones(4)).isnan().all()


def test_one_chunk_that_is_nan_makes_the_whole_so():
    c = case("MLP", "mean of squares")
    c.batch[0][5] = NAN
    for operator in ("chunks", "GaussNewton", "Fisher"):
        assert (OPERATORS[operator](c) @ torch.ones(31)).isnan().all()


@pytest.mark.parametrize("operator", ["GaussNewton", "Fisher", "empirical Fisher", "sampled Fisher"])
def test_outputs_that_are_nan_where_the_criterion_does_not_look_are_no_number_either(operator):
    c = case("MLP", "cross-entropy")
    c.batch[0][5] = NAN
    c = c._replace(criterion=lambda z, batch: classes(z[:5], (*batch[:1], batch[1][:5])))
    H = OPERATORS[operator](c)
    assert math.isfinite(H.loss)
    assert top_eigenvalues(H).status == "not_finite"


NO_SCALARS = {
    "examples": (lambda loss, z: z.sum(1), r"got shape \([46],\), torch.float\d+\. Average it: loss\.mean\(\)"),
    "number": (lambda loss, z: 1.0, "got float"),
    "integer": (lambda loss, z: (loss > 0).long(), r"got shape \(\), torch.int64"),
    "complex": (lambda loss, z: loss * 1j, r"got shape \(\), torch.complex"),
}


@pytest.mark.parametrize("kind", NO_SCALARS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_loss_that_is_no_real_scalar_is_refused(operator, kind):
    c, (change, message) = case("MLP", "cross-entropy"), NO_SCALARS[kind]
    source = "criterion" if operator in OF_OUTPUTS else "loss_fn"
    with pytest.raises(ShapeError, match=rf"{source} must return a scalar; {message}"):
        OPERATORS[operator](c._replace(criterion=lambda z, batch: change(c.criterion(z, batch), z)))


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_loss_without_a_graph_is_refused(operator):
    c = case("MLP", "cross-entropy")
    with pytest.raises(ShapeError, match=r"must depend on a trainable parameter; .*Is it detached, or computed under"):
        OPERATORS[operator](c._replace(criterion=lambda z, batch: c.criterion(z, batch).detach()))


@pytest.mark.parametrize("part", [0, 1], ids=["inputs", "targets"])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("model", ["MLP", "CNN", "transformer", "GRU"])
def test_a_batch_on_another_device_is_refused(model, operator, part):
    c = case(model, "mean of squares")
    batch = tuple(x.to("meta") if i == part else x for i, x in enumerate(c.batch))
    with pytest.raises(ShapeError, match=r"must be where the model is, on cpu; got tensors on meta\. Move it: x\.to"):
        OPERATORS[operator](c._replace(batch=batch))


@pytest.mark.parametrize("operator", OPERATORS)
def test_inference_mode_is_refused_wherever_it_is(operator):
    c = case("MLP", "cross-entropy")
    with torch.inference_mode():
        inside = case("MLP", "cross-entropy")
    with pytest.raises(ShapeError, match=r"must require a gradient; got an inference tensor.* outside inference_mode"):
        OPERATORS[operator](inside)
    with torch.inference_mode(), pytest.raises(ShapeError, match=r"must be used outside torch\.inference_mode\(\)"):
        OPERATORS[operator](c)
    with pytest.raises(ShapeError, match=r"the batch must be made outside torch\.inference_mode\(\).*x\.clone\(\)"):
        OPERATORS[operator](c._replace(batch=inside.batch))


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_product_in_inference_mode_is_right_or_refused(operator):
    H = OPERATORS[operator](case("MLP", "cross-entropy"))
    expected = H @ torch.ones(31)
    with torch.inference_mode():
        if operator in ("RebuiltHessian", "FiniteDifference"):
            with pytest.raises(ShapeError, match=rf"{operator}: must be used outside"):
                H @ torch.ones(31)
        else:
            assert torch.equal(H @ torch.ones(31), expected)


VECTORS = {
    "too short": (lambda: torch.ones(3), r"needs vectors \(31,\) or \(31, k\); got \(3,\)"),
    "three axes": (lambda: torch.ones(31, 1, 1), r"got \(31, 1, 1\)"),
    "no tensor": (lambda: [1.0] * 31, "got list"),
    "float32": (lambda: torch.ones(31, dtype=torch.float32), "needs torch.float64 on cpu; got torch.float32 on cpu"),
    "whole numbers": (lambda: torch.ones(31, dtype=torch.int64), "got torch.int64 on cpu"),
    "elsewhere": (lambda: torch.ones(31, device="meta"), "got torch.float64 on meta"),
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_vector_of_another_kind_is_refused(operator):
    H = OPERATORS[operator](case("MLP", "cross-entropy"))
    for make, message in VECTORS.values():
        with pytest.raises(ShapeError, match=message):
            H @ make()


# The scaling


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("shape", [(2,), (2, 2)])
def test_a_scaling_that_is_not_finite_is_refused(shape, value):
    half = torch.ones(shape)
    half[0] = value
    with pytest.raises(ShapeError, match=r"half must be finite; got \d entries that are not.*finite and nonnegative"):
        Scaled(Dense(torch.eye(2)), half)


def test_the_root_of_a_negative_scaling_is_refused():
    with pytest.raises(ShapeError, match="half must be finite; got 1 entries"):
        Scaled(Dense(torch.eye(2)), torch.tensor([1.0, -1.0]).sqrt())


def test_a_zero_in_the_scaling_holds_a_coordinate_still_and_a_sign_changes_no_eigenvalue():
    A = torch.tensor([[2.0, 1.0], [1.0, 5.0]])
    assert float(top_eigenvalues(Scaled(Dense(A), torch.tensor([1.0, 0.0]))).values[0]) == pytest.approx(2)
    signs = Scaled(Dense(A), torch.tensor([-1.0, 2.0]))
    plain = Scaled(Dense(A), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(top_eigenvalues(signs, 2).values, top_eigenvalues(plain, 2).values)


@pytest.mark.parametrize("half", [torch.ones(2), torch.eye(2)], ids=["diagonal", "dense"])
def test_a_shift_is_a_number_or_one_for_each_coordinate(half):
    with pytest.raises(ShapeError, match=r"Scaled: shift must be a number or \(2,\); got \(3,\)"):
        Scaled(Dense(torch.eye(2)), half, torch.ones(3))
    with pytest.raises(ShapeError, match=r"got \(2, 1\)"):  # which would be added to every column
        Scaled(Dense(torch.eye(2)), half, torch.ones(2, 1))
    for shift in (1.0, torch.tensor(1.0), torch.ones(2)):
        assert torch.equal(Scaled(Dense(torch.eye(2)), half, shift) @ torch.ones(2), torch.full((2,), 2.0))


# A matrix at hand

MATRICES = {
    "list": ([[1.0]], r"must be a tensor \(p, p\); got list"),
    "vector": (torch.ones(2), r"must be a tensor \(p, p\); got \(2,\)"),
    "whole numbers": (torch.eye(2, dtype=torch.int64), r"real floating-point numbers; got torch.int64. Write A.double"),
    "complex": (torch.eye(2, dtype=torch.complex128), "real floating-point numbers; got torch.complex128"),
    "asymmetric": (torch.tensor([[1.0, 5.0], [0.0, 1.0]]), r"must be symmetric; got entries up to 5, and 5 between"),
    "half its digits": (torch.tensor([[1.0, 1e-7], [0.0, 1.0]], dtype=torch.float64), "must be symmetric"),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_a_matrix_that_is_not_symmetric_and_real_is_refused(kind):
    A, message = MATRICES[kind]
    with pytest.raises(ShapeError, match=message):
        Dense(A)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_matrix_symmetric_up_to_rounding_is_taken(dtype):
    x = torch.randn(50, 50, dtype=dtype)
    Q = torch.linalg.qr(x).Q
    A = Q @ torch.diag(torch.linspace(-1, 1, 50, dtype=dtype)) @ Q.T
    assert not torch.equal(A, A.T)
    assert Dense(A).size == 50
    Dense(torch.full((2, 2), NAN, dtype=dtype))


def test_a_block_of_no_vectors_has_a_product_of_none():
    for H in (Dense(torch.eye(3)), OF_LOSS["Hessian"](case("MLP", "cross-entropy"))):
        assert (H @ torch.zeros(H.size, 0)).shape == (H.size, 0)


@pytest.mark.filterwarnings("error")
def test_scipy_may_bring_vectors_that_run_backwards_or_cannot_be_written():
    A = torch.tensor([[2.0, 1.0], [1.0, 5.0]])
    v, V = np.array([1.0, 3.0]), np.array([[1.0, 3.0], [2.0, 4.0]])
    backwards = [v.copy()[::-1], V.copy()[::-1], V.copy()[:, ::-1]]
    v.flags.writeable = V.flags.writeable = False
    for x in (v, V, v[::-1], *backwards):
        np.testing.assert_allclose(to_scipy(Dense(A)) @ x, A.numpy() @ x)


# What a solver is asked

KINDS = {
    "confidence of 2": ({"confidence": 2}, ConfigError, r"confidence must be above 0 and below 1; got 2. Take 0.95"),
    "confidence of 1": ({"confidence": 1.0}, ConfigError, "confidence must be above 0 and below 1; got 1.0"),
    "no confidence": ({"confidence": 0}, ConfigError, "got 0. Take"),
    "NaN": ({"confidence": NAN}, ConfigError, "got nan"),
    "half an eigenvalue": ({"k": 1.5}, ConfigError, "k must be a whole number, at least 1; got 1.5"),
    "text": ({"k": "2"}, ConfigError, "k must be a whole number, at least 1; got '2'"),
    "half a product": ({"max_products": 8.5}, ConfigError, "max_products must be a whole number.*got 8.5"),
    "half a column": ({"max_basis": 8.5}, ConfigError, "max_basis must be a whole number.*got 8.5"),
    "rtol in words": ({"rtol": "1e-2"}, ConfigError, "rtol must be a number; got '1e-2'"),
    "bound in words": ({"bound_rtol": "5%"}, ConfigError, "bound_rtol must be a number; got '5%'"),
    "a list": ({"start": [1.0, 2.0]}, ShapeError, r"start must be a tensor \(9, j\); got list. Pass a former"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solve", [top_eigenvalues, extreme_eigenvalues])
def test_an_argument_of_another_kind_is_refused(solve, kind):
    wrong, error, message = KINDS[kind]
    with pytest.raises(error, match=f"{solve.__name__}: .*{message}"):
        solve(Dense(torch.eye(9)), **wrong)


def test_whole_numbers_may_be_of_numpy():
    assert top_eigenvalues(Dense(torch.eye(9)), np.int64(2)).values.shape == (2,)


@pytest.mark.parametrize("wrong", [{"num_vectors": 1.5}, {"num_steps": "8"}, {"num_steps": 0}])
def test_a_spectrum_takes_whole_numbers_of_directions_and_steps(wrong):
    with pytest.raises(ConfigError, match=f"spectral_density: {next(iter(wrong))} must be a whole number, at least 1"):
        spectral_density(Dense(torch.eye(9)), **wrong)


ASKED = {
    "top_eigenvalues": top_eigenvalues,
    "extreme_eigenvalues": extreme_eigenvalues,
    "spectral_density": spectral_density,
    "block_eigenvalues": lambda A: block_eigenvalues(A, {"a": slice(0, 1)}),
    "to_scipy": to_scipy,
    "trace": trace,
    "frobenius_norm": frobenius_norm,
    "diagonal": diagonal,
    "condition_number": condition_number,
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("thing", [torch.eye(3), np.eye(3)], ids=["tensor", "array"])
def test_a_matrix_is_no_operator_until_it_is_said_to_be_symmetric(name, thing):
    got = r"a tensor \(3, 3\)" if isinstance(thing, torch.Tensor) else "ndarray"
    with pytest.raises(ShapeError, match=rf"{name}: the operator must be a SymmetricOperator; got {got}.*Dense\(A\)"):
        ASKED[name](thing)


# Pieces of a batch


@pytest.mark.parametrize("batches", [(x for x in ()), iter([1, 2]), {"x": torch.ones(2)}, None])
def test_micro_batches_that_are_gone_after_one_use_are_refused(batches):
    kind = type(batches).__name__
    with pytest.raises(ShapeError, match=rf"MicroBatches: needs a sequence of batches; got {kind}.*list\(batches\)"):
        MicroBatches(batches)


@pytest.mark.parametrize("max_bytes", [NAN, -1.0, 0, "2GB"])
def test_a_budget_is_a_number_above_zero(max_bytes):
    c = case("MLP", "cross-entropy")
    with pytest.raises(ConfigError, match=r"hessian: max_bytes must be above 0; got .*Leave it out for no limit"):
        hessian(c.model, lambda m, b: c.criterion(c.forward(m, b), b), c.batch, max_bytes=max_bytes)
