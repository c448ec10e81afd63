"""Trace, Frobenius norm and diagonal of an operator from random products, with standard errors.

Legend: p = size of the operator A, S and G = random signs (p, k), Q = orthonormal basis of A S, X = (I - Q Q') G.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tightrope.errors import check_number

from .draws import rademacher, seeded
from .operators import SymmetricOperator, check_operator
from .ritz import RitzSpace


@dataclass(frozen=True)
class Estimate:
    """A number found from random vectors, and what is known about it.

    Attributes:
        value: In the operator's unit.
        standard_error: Of the value over the random vectors, itself an estimate from `num_samples` of them; 0 if exact.
        num_samples: How many independent values the standard error was found from; 0 if exact.
        num_products: Products of the operator that were spent.
        seed: Of the random vectors.
        status: "estimate", "exact" (every column of the matrix was seen) or "not_finite".
    """

    value: float
    standard_error: float
    num_samples: int
    num_products: int
    seed: int
    status: str

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dict."""
        return asdict(self)


@dataclass(frozen=True)
class DiagonalEstimate:
    """The diagonal of an operator, each entry with its standard error.

    Attributes:
        values: (p,), in the operator's unit.
        standard_errors: (p,), one an entry, over the random vectors; 0 if exact.
        num_products: Products of the operator that were spent, one a random vector.
        seed: Of the random vectors.
        status: "estimate", "exact" or "not_finite".
    """

    values: Tensor
    standard_errors: Tensor
    num_products: int
    seed: int
    status: str


def trace(operator: SymmetricOperator, *, num_products: int = 96, seed: int = 0) -> Estimate:
    """Sum of the eigenvalues, with its standard error, by Hutch++.

    A third of the products sketches the range of A, a third gives the trace on it exactly, and a third samples what
    is left. Unbiased. Of a positive operator the error falls as 1 / num_products; where eigenvalues do not decay it
    can be sqrt(3) times that of plain sampling, which spends all products on samples.

    Args:
        operator: Symmetric, (p, p); it need not be positive.
        num_products: At most this many, at least 6; with p or more the trace is exact.
        seed: Of the random signs; the result is a function of the arguments alone.
    Returns:
        Estimate.
    Raises:
        ConfigError: num_products is below 6.
    Cost:
        At most num_products products; memory (p, 5/3 num_products).
    References:
        Meyer, Musco, Musco, Woodruff 2021, arXiv:2010.09649, Algorithm 1.
    """
    _check_products("trace", operator, num_products)
    if operator.size <= num_products:
        return _exact(float(_columns(operator).double().trace()), operator, seed)
    deflated = _Deflated(operator, num_products, seed)
    on_range = _columnwise(operator, deflated.Q, deflated.AQ)
    samples = _columnwise(operator, deflated.X, deflated.AX)
    return deflated.estimate(float(on_range.sum() + samples.mean()), _standard_error(samples))


def frobenius_norm(operator: SymmetricOperator, *, num_products: int = 96, seed: int = 0) -> Estimate:
    """Root of the sum of squared eigenvalues, with its standard error.

    Hutch++ on A A at the price of A: |A|^2 = |A Q|^2 + E |A X|^2. The square is unbiased; the standard error of the
    root is the square's, divided by twice the root.

    Args:
        operator: Symmetric, (p, p).
        num_products: At most this many, at least 6; with p or more the norm is exact.
        seed: Of the random signs.
    Returns:
        Estimate.
    Raises:
        ConfigError: num_products is below 6.
    Cost:
        As `trace`, of which it takes the same products.
    References:
        Meyer, Musco, Musco, Woodruff 2021, arXiv:2010.09649, Algorithm 1, applied to A A.
    """
    _check_products("frobenius_norm", operator, num_products)
    if operator.size <= num_products:
        return _exact(float(_columns(operator).double().norm()), operator, seed)
    deflated = _Deflated(operator, num_products, seed)
    on_range = _columnwise(operator, deflated.AQ, deflated.AQ)
    samples = _columnwise(operator, deflated.AX, deflated.AX)
    value = math.sqrt(float(on_range.sum() + samples.mean()))
    return deflated.estimate(value, _standard_error(samples) / (2 * value) if value else 0.0)


def diagonal(operator: SymmetricOperator, *, num_vectors: int = 64, seed: int = 0) -> DiagonalEstimate:
    """Every diagonal entry, each with its standard error: the mean of v * A v over vectors v of random signs.

    Unbiased. The variance of an entry over vectors is the sum of squares of the rest of its row, so entries of
    coordinates that curve together come out noisy.

    Args:
        operator: Symmetric, (p, p).
        num_vectors: At least 2; with p or more the diagonal is exact.
        seed: Of the random signs.
    Returns:
        DiagonalEstimate.
    Raises:
        ConfigError: num_vectors is below 2.
    Cost:
        num_vectors products (p where that is less); memory (p, 4).
    References:
        Bekas, Kokiopoulou, Saad 2007, Applied Numerical Mathematics 57 (11-12).
    """
    check_operator("diagonal", operator)
    check_number("diagonal: num_vectors", num_vectors, lambda num: num >= 2, "be at least 2", "An error needs two.")
    if operator.size <= num_vectors:
        values = _columns(operator).diagonal().clone()
        status = "exact" if _is_finite(operator, values) else "not_finite"
        return DiagonalEstimate(values, torch.zeros_like(values), operator.size, seed, status)
    generator = seeded(seed)
    mean = torch.zeros(operator.size, dtype=operator.dtype, device=operator.device)
    spread = torch.zeros_like(mean)
    for count in range(1, num_vectors + 1):  # Welford's update: no difference of large sums
        v = rademacher(operator, 1, generator)[:, 0]
        change = v * (operator @ v) - mean
        mean += change / count
        spread += (count - 1) / count * change**2
    errors = (spread / (num_vectors * (num_vectors - 1))).sqrt()
    status = "estimate" if _is_finite(operator, mean) else "not_finite"
    return DiagonalEstimate(mean, errors, num_vectors, seed, status)


class _Deflated:
    """Products on a basis Q of the sketched range, and on random vectors X off it."""

    def __init__(self, operator: SymmetricOperator, num_products: int, seed: int) -> None:
        self.num, self.seed = num_products // 3, seed
        generator = seeded(seed)
        sketch = operator @ rademacher(operator, self.num, generator)
        space = RitzSpace(operator, self.num)
        space.extend(sketch)
        G = rademacher(operator, self.num, generator)
        self.Q, self.AQ = space.V, space.AV
        self.X = G - self.Q @ operator.inner(self.Q, G)
        self.AX = operator @ self.X
        self.num_products = 2 * self.num + space.num_products
        self.is_finite = all(_is_finite(operator, column) for column in sketch.unbind(1))

    def estimate(self, value: float, standard_error: float) -> Estimate:
        """The estimate, or NaN where any product was not finite."""
        if not (self.is_finite and math.isfinite(value)):
            return Estimate(math.nan, math.nan, self.num, self.num_products, self.seed, "not_finite")
        return Estimate(value, standard_error, self.num, self.num_products, self.seed, "estimate")


def _columnwise(operator: SymmetricOperator, U: Tensor, V: Tensor) -> Tensor:
    """Inner products of the columns of U with those of V (k,), in float64: squares of float32 leave its range."""
    columns = ((u[:, None].double(), v[:, None].double()) for u, v in zip(U.T, V.T, strict=True))
    return torch.tensor([float(operator.inner(u, v)) for u, v in columns], dtype=torch.float64)


def _standard_error(samples: Tensor) -> float:
    return float(samples.std() / math.sqrt(len(samples)))


def _is_finite(operator: SymmetricOperator, v: Tensor) -> bool:
    """No entry is NaN or infinite; asked of an inner product, which sees the shards of every process."""
    return math.isfinite(float(operator.inner(v[:, None].double(), torch.ones_like(v[:, None]).double())))


def _columns(operator: SymmetricOperator) -> Tensor:
    """The matrix itself (p, p), by its product with every unit vector."""
    return operator @ torch.eye(operator.size, dtype=operator.dtype, device=operator.device)


def _exact(value: float, operator: SymmetricOperator, seed: int) -> Estimate:
    if not math.isfinite(value):
        return Estimate(math.nan, math.nan, 0, operator.size, seed, "not_finite")
    return Estimate(value, 0.0, 0, operator.size, seed, "exact")


def _check_products(where: str, operator: SymmetricOperator, num_products: int) -> None:
    check_operator(where, operator)
    hint = "Hutch++ splits them in three, and a standard error needs two."
    check_number(f"{where}: num_products", num_products, lambda num: num >= 6, "be at least 6", hint)
