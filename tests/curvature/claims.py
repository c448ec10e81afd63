"""Every rigorous claim of an eigenvalue result, held against the true eigenvalues of the matrix."""

from __future__ import annotations

import torch

from tightrope.curvature import EigenResult, Extremes, SymmetricOperator, extreme_eigenvalues, top_eigenvalues

EPS = torch.finfo(torch.float64).eps


class Counting(SymmetricOperator):
    """An operator that counts its own products."""

    route = "counting"

    def __init__(self, operator):
        self.operator, self.num_applied = operator, 0
        self.size, self.dtype, self.device = operator.size, operator.dtype, operator.device

    def apply(self, v):
        self.num_applied += 1
        return self.operator.apply(v)


def solve_and_check(operator, k, truth, *, own=0.0, **options) -> EigenResult:
    """Solve, hold every claim of the result against the true eigenvalues, and return it.

    Args:
        truth: (p,) descending, in float64.
        own: What rounding in the operator's products can add, in units of the largest |eigenvalue|.
    """
    counted = Counting(operator)
    result = top_eigenvalues(counted, k, **options)
    check_top(operator, k, truth, own, result)
    check_effort(counted, result.num_products, result.status, result.residuals, result.values, own, truth, options)
    if result.upper_kind == "exact":
        assert result.num_products == operator.size
    return result


def solve_and_check_both(operator, k, truth, *, own=0.0, **options) -> Extremes:
    """The same of both ends; the bottom is the top of the operator turned upside down."""
    counted = Counting(operator)
    ends = extreme_eigenvalues(counted, k, **options)
    top, bottom = ends.top, ends.bottom
    check_top(operator, k, truth, own, top)
    check_top(operator, k, -truth.flip(0), own, upside_down(ends))
    values, residuals = torch.cat([top.values, bottom.values]), torch.cat([top.residuals, bottom.residuals])
    check_effort(counted, ends.num_products, ends.status, residuals, values, own, truth, options)
    assert (top.num_products, top.status) == (ends.num_products, ends.status)
    assert (bottom.lower_kind, bottom.confidence) == (top.upper_kind, top.confidence)
    return ends


def upside_down(ends: Extremes) -> EigenResult:
    """The bottom as the top of the operator times -1."""
    bottom = ends.bottom
    return EigenResult(
        -bottom.values,
        -bottom.upper,
        -bottom.lower,
        bottom.lower_kind,
        bottom.confidence,
        bottom.residuals,
        bottom.vectors,
        ends.warm_start,
        ends.num_products,
        ends.status,
    )


def check_top(operator, k, truth, own, result):
    """The claims on the k largest eigenvalues."""
    assert result.values.shape == result.lower.shape == result.residuals.shape == (k,)
    assert result.vectors.shape == (operator.size, k)
    assert result.values.dtype == result.vectors.dtype == operator.dtype
    eps, scale = torch.finfo(operator.dtype).eps, float(truth.abs().max())
    vectors, values = result.vectors.double(), result.values.double()
    slack = (8 * EPS + own) * scale  # of the dense truth itself, and of the operator's products
    assert (values.diff() <= 0).all()
    assert (result.lower.double() <= truth[:k] + slack).all()
    assert (result.lower <= result.values).all()
    nearest = (values[:, None] - truth).abs().amin(1)
    assert (nearest <= result.residuals.double() + slack).all()
    assert torch.allclose(vectors.T @ vectors, torch.eye(k, dtype=torch.float64), rtol=0, atol=40 * eps)
    assert result.upper_kind in ("exact", "probabilistic", "residual")
    assert (result.confidence is not None) == (result.upper_kind == "probabilistic")
    assert result.upper >= float(result.values[0])
    if result.upper_kind == "exact":
        assert result.upper >= truth[0] - slack
        assert torch.allclose(values, truth[:k], rtol=0, atol=64 * eps * scale)


def check_effort(counted, num_products, status, residuals, values, own, truth, options):
    """The products are those the operator saw, and the status says what the numbers say."""
    max_products = options.get("max_products", 64)
    assert num_products == counted.num_applied <= max_products
    rtol, eps = options.get("rtol", 1e-2), torch.finfo(counted.dtype).eps
    rounding = (8 * (num_products + 1) * eps + own) * float(truth.abs().max()) * counted.size**0.5
    assert status in ("converged", "max_products", "bound_not_reached")
    if status == "max_products":
        is_small = residuals.double() <= rtol * values.double().abs()
        assert num_products == max_products
        assert not is_small.all()
    else:
        assert (residuals.double() <= rtol * values.double().abs() + 2 * rounding).all()
