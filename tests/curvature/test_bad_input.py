"""Every operator refuses bad input in one line, and of a loss that is not finite says NaN and nothing else."""

import math

import pytest
import torch
from torch import nn

from tightrope.curvature import (
    Dense,
    FiniteDifference,
    Fisher,
    GaussNewton,
    Hessian,
    RebuiltHessian,
    Scaled,
    hessian,
    top_eigenvalues,
)
from tightrope.errors import ShapeError

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
