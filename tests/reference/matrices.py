"""Symmetric matrices of known spectrum, hard ones among them, and operators that count or fail."""

from __future__ import annotations

import torch

from tightrope.curvature import SymmetricOperator

SPECTRA = {
    "one by one": [-3.0],
    "identity": [1.0] * 24,
    "zero": [0.0] * 24,
    "near ties at the top": [1.0, 1.0 - 1e-12, 1.0 - 1e-9, 1.0 - 1e-6, *torch.linspace(0, 0.9, 20).tolist()],
    "rank one": [7.0] + [0.0] * 23,
    "rank three, indefinite": [7.0, 1e-3, -9.0] + [0.0] * 21,
    "larger negative end": [1.0, 0.5] + [0.0] * 21 + [-1e4],
    "mirrored": [3.0, -3.0] * 12,
    "eight decades": torch.logspace(-8, 0, 24, dtype=torch.float64).tolist(),
    "eight decades below zero": (-torch.logspace(-8, 0, 24, dtype=torch.float64)).tolist(),
    "flat bulk, one outlier": [50.0, *torch.linspace(0.999, 1, 23).tolist()],
}


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def symmetric(eigenvalues, seed=0):
    """A dense symmetric matrix with these eigenvalues in a random basis."""
    lam = torch.as_tensor(eigenvalues, dtype=torch.float64)
    Q = torch.linalg.qr(randn(len(lam), len(lam), seed=seed)).Q
    A = Q @ (lam[:, None] * Q.T)
    return (A + A.T) / 2


class Counting(SymmetricOperator):
    """A dense operator that counts its products; from the `first`-th on they hold `bad`."""

    def __init__(self, A, first=None, bad=float("nan")):
        self.A, self.first, self.bad, self.num_applied = A, first, bad, 0
        self.size, self.dtype, self.device, self.route = len(A), A.dtype, A.device, "counting"

    def apply(self, v):
        self.num_applied += 1
        product = self.A @ v
        if self.first is not None and self.num_applied >= self.first:
            product[-1] = self.bad
        return product


class Diagonal(SymmetricOperator):
    """diag(lam): random starts are uniform in direction, so no other basis is harder."""

    route = "diagonal"

    def __init__(self, lam):
        self.lam, self.size, self.dtype, self.device = lam, len(lam), lam.dtype, lam.device

    def apply(self, v):
        return self.lam * v
