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
    check_end(
        operator,
        k,
        truth,
        own,
        values=result.values,
        inner_bounds=result.lower,
        outer_bound=result.upper,
        kind=result.upper_kind,
        result=result,
    )
    check_effort(counted, result.num_products, result.status, result.residuals, result.values, own, truth, options)
    if result.upper_kind == "exact":
        assert result.num_products == operator.size
    return result


def solve_and_check_both(operator, k, truth, *, own=0.0, **options) -> Extremes:
    """The same of both ends; the bottom is the top of the operator turned upside down."""
    counted = Counting(operator)
    ends = extreme_eigenvalues(counted, k, **options)
    top, bottom = ends.top, ends.bottom
    check_end(
        operator,
        k,
        truth,
        own,
        values=top.values,
        inner_bounds=top.lower,
        outer_bound=top.upper,
        kind=top.upper_kind,
        result=top,
    )
    check_end(
        operator,
        k,
        -truth.flip(0),
        own,
        values=-bottom.values,
        inner_bounds=-bottom.upper,
        outer_bound=-bottom.lower,
        kind=bottom.lower_kind,
        result=bottom,
    )
    values, residuals = torch.cat([top.values, bottom.values]), torch.cat([top.residuals, bottom.residuals])
    check_effort(counted, ends.num_products, ends.status, residuals, values, own, truth, options)
    assert (top.num_products, top.status) == (ends.num_products, ends.status)
    assert (bottom.lower_kind, bottom.confidence) == (top.upper_kind, top.confidence)
    return ends


def check_end(operator, k, truth, own, *, values, inner_bounds, outer_bound, kind, result):
    """The claims on the k largest eigenvalues."""
    assert values.shape == inner_bounds.shape == result.residuals.shape == (k,)
    assert result.vectors.shape == (operator.size, k)
    assert values.dtype == result.vectors.dtype == operator.dtype
    eps, scale = torch.finfo(operator.dtype).eps, float(truth.abs().max())
    vectors, wide = result.vectors.double(), values.double()
    slack = (8 * EPS + own) * scale  # of the dense truth itself, and of the operator's products
    assert (wide.diff() <= 0).all()
    assert (inner_bounds.double() <= truth[:k] + slack).all()
    assert (inner_bounds <= values).all()
    nearest = (wide[:, None] - truth).abs().amin(1)
    assert (nearest <= result.residuals.double() + slack).all()
    assert torch.allclose(vectors.T @ vectors, torch.eye(k, dtype=torch.float64), rtol=0, atol=40 * eps)
    assert kind in ("exact", "probabilistic", "residual")
    assert (result.confidence is not None) == (kind == "probabilistic")
    assert outer_bound >= float(values[0])
    if kind == "exact":
        assert outer_bound >= truth[0] - slack
        assert torch.allclose(wide, truth[:k], rtol=0, atol=64 * eps * scale)


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
