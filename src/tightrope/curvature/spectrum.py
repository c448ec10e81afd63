"""The whole spectrum of an operator by stochastic Lanczos quadrature, and what follows from it.

Legend: p = size, v = random direction, m = Krylov steps a direction, theta = nodes (Ritz values), tau = weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tightrope.errors import ConfigError, check_count, check_number

from .draws import gaussian, seeded
from .operators import SymmetricOperator, check_operator
from .ritz import RitzSpace


@dataclass(frozen=True)
class SpectralEstimate:
    """A mean or sum over the eigenvalues, and what is known about it.

    Two things can be wrong with it, and each has its number: random directions stand for all (`standard_error`), and
    nodes stand for each direction's own eigenvalues (`lower`, `upper`). Where these lie far apart, the value can be
    off by many standard errors; more steps bring them together, more directions do not.

    Attributes:
        value: The mean over the random directions.
        standard_error: Of the value over the directions, itself an estimate from so many; NaN for one direction.
        lower: No fewer than this is what the same directions would give if nothing were left unresolved; rigorous
            up to rounding.
        upper: No more than this, likewise.
    """

    value: float
    standard_error: float
    lower: float
    upper: float

    def to_dict(self) -> dict[str, Any]:
        """The attributes as a dict."""
        return asdict(self)


@dataclass(frozen=True)
class SpectralDensity:
    """Where the eigenvalues of an operator lie: for each random direction, nodes and the share of eigenvalues at each.

    What is not resolved: the share at a node stands for all eigenvalues about it, up to the nodes on either side, so
    features of the bulk finer than the distance of nodes are not seen, and a few eigenvalues beside many hold a share
    of about 1 / p each, of which the standard error is as large. The extreme nodes are Ritz values: an outlier is
    found to its digits long before the bulk is, but a cluster of equal eigenvalues is one node, and a value that
    most directions miss may be none. `top_eigenvalues` bounds the extremes; this does not.

    Attributes:
        size: p, how many eigenvalues there are.
        nodes: (num_vectors, m) ascending, in the operator's unit, float64 on the CPU. A Krylov space that closed
            early repeats its last node with weight zero.
        weights: (num_vectors, m), each row summing to 1.
        is_closed: (num_vectors,); the Krylov space of the direction closed, and its quadrature is exact.
        num_products: Products of the operator that were spent.
        seed: Of the random directions.
        route: How products were computed.
        status: "estimate" or "not_finite" (nodes and weights are then NaN).
    """

    size: int
    nodes: Tensor
    weights: Tensor
    is_closed: Tensor
    num_products: int
    seed: int
    route: str
    status: str

    def moment(self, order: int) -> SpectralEstimate:
        """tr(A^order) / p, the mean of a power of the eigenvalues; the quadrature has no error here.

        Args:
            order: 0 to 2 m - 1, up to which Gauss quadrature is exact.
        """
        limit = 2 * self.nodes.shape[1] - 1
        check_number(
            "SpectralDensity.moment: order", order, lambda j: 0 <= j <= limit and j == int(j), f"be 0 to {limit}"
        )
        means = (self.weights * self.nodes**order).sum(1)
        return _estimate(means, means, means)

    def mass(self, low: float, high: float) -> SpectralEstimate:
        """Share of the eigenvalues in [low, high]; times p, how many there are."""
        if not low <= high:
            raise ConfigError(f"SpectralDensity.mass: low must be at most high; got [{low}, {high}]. Swap them.")
        reach = self._means(lambda x: (x >= low).double())
        beyond = self._means(lambda x: (x > high).double())
        # Subtracting the other's bounds in reverse; NaN stays NaN.
        lower, upper = (reach[1] - beyond[2]).clamp(min=0), (reach[2] - beyond[1]).clamp(max=1)
        return _estimate(reach[0] - beyond[0], lower, upper)

    def monotone_sum(self, fn: Callable[[Tensor], Tensor]) -> SpectralEstimate:
        """Sum of fn over all p eigenvalues, for a function that nowhere decreases and is finite at both infinities.

        Args:
            fn: Elementwise on a float64 tensor, -inf and inf included.
        """
        return _estimate(*(self.size * means for means in self._means(fn)))

    def smoothed(self, width: float | None = None, num_points: int = 1024) -> tuple[Tensor, Tensor, Tensor]:
        """The density on a grid: every node a Gaussian of standard deviation `width`.

        Args:
            width: In the operator's unit; None for the range of the nodes over m, about what m steps resolve in
                mid-range. Peaks finer than that are nodes, not features.
            num_points: Of the grid, which reaches 4 widths beyond the extreme nodes.
        Returns:
            Grid (num_points,), density (num_points,) of integral 1, and its standard error over the directions.
        """
        if width is None:
            width = self._default_width()
        check_number("SpectralDensity.smoothed: width", width, lambda w: not w <= 0, "be above 0")
        low, high = float(self.nodes.min()), float(self.nodes.max())
        grid = torch.linspace(low - 4 * width, high + 4 * width, num_points, dtype=torch.float64)
        rows = []
        for theta, tau in zip(self.nodes, self.weights, strict=True):
            bumps = torch.exp(-(((grid[:, None] - theta) / width) ** 2) / 2)
            rows.append(bumps @ tau / (width * math.sqrt(2 * math.pi)))
        densities = torch.stack(rows)
        return grid, densities.mean(0), _standard_error(densities)

    def to_dict(self) -> dict[str, Any]:
        """What a report shows: nodes, weights, the smoothed density, and the first two moments."""
        grid, density, error = self.smoothed()
        tensors = {"nodes": self.nodes, "weights": self.weights, "is_closed": self.is_closed}
        tensors |= {"grid": grid, "density": density, "density_standard_error": error}
        return {
            "size": self.size,
            "num_products": self.num_products,
            "seed": self.seed,
            "route": self.route,
            "status": self.status,
            "mean": self.moment(1).to_dict(),
            **{name: tensor.tolist() for name, tensor in tensors.items()},
        }

    def _default_width(self) -> float:
        extent = float(self.nodes.max() - self.nodes.min()) / self.nodes.shape[1]
        largest = float(self.nodes.abs().max())
        return max(extent, 1e-3 * largest) or 1e-3

    def _means(self, fn: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """For each direction, the mean of a nondecreasing fn by quadrature, and bounds on the true one.

        Up to a node, the true distribution holds at least the weights before that node and at most its own too
        (the separation theorem of Chebyshev, Markov and Stieltjes; Szego 1939, Orthogonal Polynomials, 3.41). So no
        weight lies, in sum, further off than the next node; beyond the last one, than infinity.
        """
        limits = fn(torch.tensor([-math.inf, math.inf], dtype=torch.float64)).expand(len(self.nodes), 2)
        f = fn(self.nodes)
        left, right = torch.cat([limits[:, :1], f[:, :-1]], dim=1), torch.cat([f[:, 1:], limits[:, 1:]], dim=1)
        closed = self.is_closed[:, None]
        sums = [(self.weights * values).sum(1) for values in (f, f.where(closed, left), f.where(closed, right))]
        return sums[0], sums[1], sums[2]


def spectral_density(
    operator: SymmetricOperator, *, num_vectors: int = 4, num_steps: int = 64, seed: int = 0
) -> SpectralDensity:
    """Where the eigenvalues of a symmetric operator lie, by stochastic Lanczos quadrature.

    From each random direction a Krylov space with full reorthogonalisation; its Ritz values are the nodes, and the
    squared first coordinates of their vectors the weights, of the Gauss quadrature for the eigenvalues as that
    direction sees them. Over directions, uniform on the sphere, the mean is that of all eigenvalues. See
    `SpectralDensity` for what is not resolved.

    Args:
        operator: Symmetric, (p, p). Never materialised.
        num_vectors: Random directions; two or more give standard errors.
        num_steps: m, products a direction; more resolve finer features.
        seed: Of the directions; the result is a function of the arguments alone.
    Returns:
        SpectralDensity.
    Raises:
        ConfigError: num_vectors or num_steps is no whole number, or below 1.
        ShapeError: the operator is none.
    Cost:
        At most num_vectors * num_steps products; memory (p, num_steps).
    References:
        Ubaru, Chen, Saad 2017, SIAM J. Matrix Anal. Appl. 38(4), Algorithm 1; Ghorbani, Krishnan, Xiao 2019,
        arXiv:1901.10159 (Gaussian directions, smoothing); Golub, Meurant 2010, Matrices, Moments and Quadrature,
        chapter 6.
    """
    check_operator("spectral_density", operator)
    check_count("spectral_density: num_vectors", num_vectors)
    check_count("spectral_density: num_steps", num_steps)
    generator = seeded(seed)
    m, num_products = min(num_steps, operator.size), 0
    nodes = torch.full((num_vectors, m), math.nan, dtype=torch.float64)
    weights, is_closed = torch.full_like(nodes, math.nan), torch.zeros(num_vectors, dtype=torch.bool)
    status = "estimate"
    for i in range(num_vectors):
        space = RitzSpace(operator, m, keeps_products=False)
        space.extend(gaussian(operator, 1, generator))
        while space.is_finite and space.extend_krylov():
            pass
        num_products += space.num_products
        if not space.is_finite:
            nodes[:], weights[:], status = math.nan, math.nan, "not_finite"
            break
        nodes[i], weights[i] = _quadrature(space, m)
        is_closed[i] = space.is_whole or not space.is_exhausted
    return SpectralDensity(operator.size, nodes, weights, is_closed, num_products, seed, operator.route, status)


def effective_dimension(density: SpectralDensity, alpha: float) -> SpectralEstimate:
    """How many directions the loss determines against a prior of precision alpha: sum of lambda / (lambda + alpha).

    Eigenvalues below zero count as zero: the loss determines no such direction.

    Args:
        density: Of the Hessian or Gauss-Newton matrix, in the unit of alpha.
        alpha: Positive, such as a weight decay.
    Returns:
        SpectralEstimate, 0 to p.
    Raises:
        ConfigError: alpha is not positive.
    References:
        MacKay 1992, Neural Computation 4(3), Bayesian Interpolation (gamma, the number of well-determined parameters).
    """
    check_number("effective_dimension: alpha", alpha, lambda a: a > 0, "be above 0", "It is a prior's precision.")
    return density.monotone_sum(lambda x: 1 / (1 + alpha / x.clamp(min=0)))


def _quadrature(space: RitzSpace, m: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights (m,) of a Krylov space grown from its first column."""
    theta, S = torch.linalg.eigh(space.T)
    tau = S[0] ** 2
    num_missing = m - len(theta)
    return torch.cat([theta, theta[-1:].expand(num_missing)]), torch.cat([tau, tau.new_zeros(num_missing)])


def _estimate(means: Tensor, lower: Tensor, upper: Tensor) -> SpectralEstimate:
    """Over the directions, from the mean each of them gives and the bounds on it."""
    error = float(_standard_error(means))
    return SpectralEstimate(float(means.mean()), error, float(lower.mean()), float(upper.mean()))


def _standard_error(rows: Tensor) -> Tensor:
    """Of the mean over the first dimension; NaN for one row."""
    if len(rows) < 2:
        return torch.full_like(rows[0], math.nan)
    return rows.std(0) / math.sqrt(len(rows))
