"""The curvature that uphill gradients meet, against the matrix written out."""

from __future__ import annotations

import pytest
import torch

from tightrope.curvature import Ascended, Dense, Scaled, top_eigenvalues
from tightrope.errors import ShapeError


@pytest.fixture
def A():
    generator = torch.Generator().manual_seed(0)
    B = torch.randn(9, 9, dtype=torch.float64, generator=generator)
    return B + B.T


def counted(A):
    """A dense operator, and a list that grows by one with each of its products."""
    operator, products = Dense(A), []
    plain = operator.apply
    operator.apply = lambda v: (products.append(v), plain(v))[1]
    return operator, products


@pytest.mark.parametrize("scale", [None, torch.linspace(0, 2, 9).double()], ids=["identity", "diagonal"])
def test_it_is_a_plus_c_a_s_a(A, scale):
    S = torch.eye(9).double() if scale is None else torch.diag(scale)
    got = Ascended(Dense(A), 0.3, scale) @ torch.eye(9).double()
    torch.testing.assert_close(got, A + 0.3 * A @ S @ A, rtol=1e-13, atol=1e-13)


def test_without_an_ascent_it_is_the_operator(A):
    v = torch.ones(9).double()
    assert torch.equal(Ascended(Dense(A), 0.0) @ v, A @ v)


def test_every_product_costs_two_of_the_operators_beneath(A):
    operator, products = counted(A)
    both = Scaled(Ascended(operator, 0.3), torch.ones(9).double())
    found = top_eigenvalues(both, max_products=6, rtol=1e-12)
    assert both.cost == Ascended(operator, 0.3).cost == 2
    assert len(products) == both.cost * found.num_products == 12


def test_a_composition_over_it_costs_what_all_its_parts_cost(A):
    assert Ascended(Ascended(Dense(A), 1.0), 1.0).cost == 4
    assert Dense(A).cost == Scaled(Dense(A), torch.ones(9).double()).cost == 1


def test_inner_products_and_route_are_the_operators_own(A):
    operator = Dense(A)
    operator.inner = lambda U, V: 2 * U.T @ V
    operator.route = "somewhere else"
    over = Ascended(operator, 0.1)
    V = torch.eye(9).double()
    assert torch.equal(over.inner(V, V), 2 * V)
    assert over.route == "somewhere else"


def test_a_scale_of_another_length_is_refused(A):
    with pytest.raises(ShapeError, match=r"Ascended: scale must be \(9,\); got \(8,\)"):
        Ascended(Dense(A), 0.1, torch.ones(8))
