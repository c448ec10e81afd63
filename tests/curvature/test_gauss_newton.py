"""Gauss-Newton and Fisher products against dense matrices built from the Jacobian."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tightrope.curvature import Fisher, GaussNewton, Hessian, MicroBatches, top_eigenvalues
from tightrope.errors import ConfigError, ShapeError, TightropeError

from .modules import (
    CRITERIA,
    MODELS,
    bent,
    case,
    dense_gauss_newton,
    dense_jacobian,
    forward,
    loss_of,
    outputs_at,
    trained,
    weights,
)
from .test_routes import Apply, Detached


@pytest.fixture(autouse=True)
def _double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def whole(H):
    return H @ torch.eye(H.size)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("model", MODELS)
def test_gauss_newton_is_the_dense_matrix(model, criterion):
    c = case(model, criterion)
    G = GaussNewton(c.model, c.forward, c.criterion, c.batch)
    torch.testing.assert_close(whole(G), dense_gauss_newton(c), rtol=1e-10, atol=1e-12)
    H = Hessian(c.model, loss_of(c), c.batch)
    assert G.loss == pytest.approx(H.loss, rel=1e-12)
    torch.testing.assert_close(G.gradient, H.gradient, rtol=1e-10, atol=1e-13)
    assert G.route == "Gauss-Newton, kept linearisation"


def test_gauss_newton_is_the_hessian_of_a_linear_model_and_not_of_another():
    c = case("MLP", "cross-entropy")
    linear = c._replace(model=nn.Linear(3, 3))
    for each, is_same in ((linear, True), (c, False)):
        G = GaussNewton(each.model, each.forward, each.criterion, each.batch)
        H = Hessian(each.model, loss_of(each), each.batch)
        assert torch.allclose(whole(G), whole(H), rtol=1e-10, atol=1e-12) == is_same


@pytest.mark.parametrize("model", MODELS)
def test_the_exact_fisher_of_classes_is_gauss_newton_of_cross_entropy(model):
    c = case(model, "cross-entropy")
    F = Fisher(c.model, c.forward, c.criterion, c.batch)
    G = GaussNewton(c.model, c.forward, c.criterion, c.batch)
    torch.testing.assert_close(whole(F), whole(G), rtol=1e-11, atol=1e-13)
    assert F.loss == G.loss
    assert torch.equal(F.gradient, G.gradient)


def test_the_exact_fisher_of_means_is_gauss_newton_of_squares():
    c = case("MLP", "mean of squares")
    F = Fisher(c.model, c.forward, c.criterion, c.batch, distribution="normal")
    G = GaussNewton(c.model, c.forward, c.criterion, c.batch)
    torch.testing.assert_close(whole(F), whole(G), rtol=1e-11, atol=1e-13)


def single_gradients(c):
    """(n, p): of each example's loss alone, by the plain model."""
    w = weights(c).requires_grad_()
    losses = [c.criterion(outputs_at(c, w)[i : i + 1], (None, c.batch[1][i : i + 1])) for i in range(6)]
    return torch.stack([torch.autograd.grad(loss, w)[0] for loss in losses])


@pytest.mark.parametrize("criterion", ["cross-entropy", "mean of squares"])
@pytest.mark.parametrize("model", MODELS)
def test_the_empirical_fisher_is_the_second_moment_of_single_gradients(model, criterion):
    c = case(model, criterion)
    g = single_gradients(c)
    F = Fisher(c.model, c.forward, c.criterion, c.batch, empirical=True)
    torch.testing.assert_close(whole(F), g.T @ g / 6, rtol=1e-10, atol=1e-13)
    assert F.route.startswith("Fisher, empirical")


@pytest.mark.parametrize("distribution", ["categorical", "normal"])
def test_samples_converge_to_the_exact_fisher_as_their_number_grows(distribution):
    c = case("MLP", "cross-entropy")
    exact = whole(Fisher(c.model, c.forward, c.criterion, c.batch, distribution=distribution))
    errors = []
    for num_samples in (100, 10_000):
        F = Fisher(c.model, c.forward, c.criterion, c.batch, distribution=distribution, num_samples=num_samples)
        errors.append(float((whole(F) - exact).norm() / exact.norm()))
        assert F.route.startswith(f"Fisher, {num_samples} samples")
    # The error of a mean falls as 1 / sqrt(samples): by 10 here, give or take.
    assert errors[1] < 0.02
    assert 3 < errors[0] / errors[1] < 30


def test_samples_are_a_function_of_the_seed():
    c = case("MLP", "cross-entropy")
    A, B, C = (whole(Fisher(c.model, c.forward, c.criterion, c.batch, num_samples=1, seed=s)) for s in (3, 3, 4))
    assert torch.equal(A, B)
    assert not torch.allclose(A, C)
    assert int(torch.linalg.matrix_rank(A)) <= 6


def test_a_token_is_a_prediction():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Tanh(), nn.Linear(3, 4))
    batch = torch.randint(5, (2, 7)), torch.randint(4, (2, 7))

    def criterion(z, batch):
        return nn.functional.cross_entropy(z.flatten(0, 1), batch[1].flatten())

    F, G = Fisher(model, forward, criterion, batch), GaussNewton(model, forward, criterion, batch)
    torch.testing.assert_close(whole(F), whole(G), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("kind", [GaussNewton, Fisher])
def test_chunks_and_micro_batches_add_up(kind):
    c = case("MLP", "cross-entropy")
    expected = whole(kind(c.model, c.forward, c.criterion, c.batch))
    parts = MicroBatches([tuple(x[:2] for x in c.batch), tuple(x[2:] for x in c.batch)], (1 / 3, 2 / 3))
    for batch, chunk_size in ((c.batch, 4), (parts, None), (parts, 1)):
        G = kind(c.model, c.forward, c.criterion, batch, chunk_size=chunk_size)
        torch.testing.assert_close(whole(G), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", [GaussNewton, Fisher])
def test_chosen_parameters_are_a_block(kind):
    c = case("MLP", "cross-entropy")
    every = whole(kind(c.model, c.forward, c.criterion, c.batch))
    G = kind(c.model, c.forward, c.criterion, c.batch, params=[c.model[2].bias])
    torch.testing.assert_close(whole(G), every[-3:, -3:], rtol=1e-10, atol=1e-13)
    assert "lower bound" in G.route


def test_its_largest_eigenvalue_is_that_of_the_dense_matrix():
    c = case("transformer", "cross-entropy")
    G = GaussNewton(c.model, c.forward, c.criterion, c.batch)
    expected = float(torch.linalg.eigvalsh(dense_gauss_newton(c))[-1])
    assert float(top_eigenvalues(G, rtol=1e-6).values[0]) == pytest.approx(expected, rel=1e-6)


def test_the_oracle_knows_the_jacobian_of_a_linear_model():
    c = case("MLP", "mean of squares")._replace(model=nn.Linear(3, 3, bias=False))
    expected = torch.einsum("ij,nk->nijk", torch.eye(3), c.batch[0]).reshape(18, 9)
    torch.testing.assert_close(dense_jacobian(c), expected)
    assert len(trained(c)) == 1


# Misuse


@pytest.mark.parametrize("kind", [GaussNewton, Fisher])
@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (lambda model, batch: (model(batch[0]),), r"must return one floating tensor .*; got tuple\. Return the logits"),
        (lambda model, batch: model(batch[0]).detach(), "got torch.float64, detached"),
        (lambda model, batch: model(batch[0]).argmax(1), "got torch.int64, detached"),
    ],
    ids=["tuple", "detached", "integers"],
)
def test_outputs_that_cannot_be_linearised_are_refused(kind, outputs, message):
    c = case("MLP", "cross-entropy")
    with pytest.raises(ShapeError, match=message):
        kind(c.model, outputs, c.criterion, c.batch)


@pytest.mark.parametrize("kind", [GaussNewton, Fisher])
def test_a_criterion_that_is_no_scalar_is_refused(kind):
    c = case("MLP", "cross-entropy")
    with pytest.raises(ShapeError, match=rf"{kind.__name__}: .*must return a scalar; got shape \(6, 3\)"):
        kind(c.model, c.forward, lambda z, batch: z**2, c.batch)


@pytest.mark.parametrize("kind", [GaussNewton, Fisher])
def test_a_backward_pass_that_cannot_be_differentiated_is_refused(kind):
    c = case("MLP", "cross-entropy")
    model = nn.Sequential(c.model[0], Apply(Detached), c.model[2])
    with pytest.raises(TightropeError, match="J and J' are not adjoint"):
        kind(model, c.forward, c.criterion, c.batch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distribution": "nromal"}, "must be 'categorical' or 'normal'; got 'nromal'. Did you mean 'normal'"),
        ({"num_samples": -1}, "num_samples must be 0 or more"),
        ({"empirical": True, "num_samples": 2}, "0 where the labels are the batch's; got 2"),
    ],
)
def test_settings_that_make_no_fisher_are_refused(settings, message):
    c = case("MLP", "cross-entropy")
    with pytest.raises(ConfigError, match=message):
        Fisher(c.model, c.forward, c.criterion, c.batch, **settings)


def test_outputs_without_rows_have_no_fisher():
    model = nn.Linear(3, 1)
    with pytest.raises(ShapeError, match=r"outputs must be \(\.\.\., d\), d to a prediction; got \(4,\)"):
        Fisher(model, lambda model, x: model(x)[:, 0], lambda z, x: z.mean(), torch.ones(4, 3))


def test_a_criterion_that_is_linear_has_no_gauss_newton():
    c = case("MLP", "bent")
    G = GaussNewton(c.model, c.forward, lambda z, batch: z.sum(), c.batch)
    assert not whole(G).any()
    assert whole(GaussNewton(c.model, c.forward, bent, c.batch)).any()


@pytest.mark.parametrize("kind", [GaussNewton, Fisher])
def test_a_reentrant_checkpoint_is_refused_and_not_left_out(kind):
    """Of an input that is a leaf, as in fine-tuning, the engine would leave out the layer without a word."""
    model = nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 2)])

    def checkpointed(model, x):
        leaf = x.clone().requires_grad_()
        return model[1](checkpoint(lambda x: torch.tanh(model[0](x)), leaf, use_reentrant=True))

    with pytest.raises(TightropeError, match="must not checkpoint reentrantly"):
        kind(model, checkpointed, lambda z, x: z.square().mean(), torch.randn(5, 3))
