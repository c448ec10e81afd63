"""Every route gives the dense Hessian, and the one taken is the one that works."""

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tightrope.curvature import (
    FiniteDifference,
    Hessian,
    MicroBatches,
    hessian,
    self_check,
    top_eigenvalues,
)
from tightrope.errors import ConfigError, ShapeError
from tightrope.parameters import trainable
from tightrope.stability import measure

from .modules import CRITERIA, MODELS, Case, case, dense_hessian, forward, loss_of, mean_squares


@pytest.fixture(autouse=True)
def _double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def whole(H):
    return H @ torch.eye(H.size, dtype=H.dtype)


ROUTES = {"kept graph": 1e-11, "rebuilt graph": 1e-11, "central difference": 1e-8}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("model", MODELS)
def test_every_route_is_the_dense_hessian(model, criterion):
    c = case(model, criterion)
    expected = dense_hessian(c)
    for route, rtol in ROUTES.items():
        torch.manual_seed(1)
        H = hessian(c.model, loss_of(c), c.batch, route=route)
        assert H.route.startswith(route)
        torch.testing.assert_close(whole(H), expected, rtol=0, atol=rtol * float(expected.abs().max()))
    torch.manual_seed(1)
    H = hessian(c.model, loss_of(c), c.batch)
    assert H.route == "kept graph"
    assert H.check.is_passed
    assert H.check.symmetry < 1e-10
    assert H.check.agreement < 1e-6


def test_loss_and_gradient_are_the_same_by_every_route():
    c = case("transformer", "cross-entropy")
    kept, *others = (hessian(c.model, loss_of(c), c.batch, route=route) for route in ROUTES)
    for H in others:
        assert H.loss == pytest.approx(kept.loss, rel=1e-12)
        torch.testing.assert_close(H.gradient, kept.gradient, rtol=1e-12, atol=1e-14)


# What has no second derivative


class Raising(torch.autograd.Function):
    """tanh whose backward pass forbids a second one."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx, g):
        return SecondForbidden.apply(g * (1 - torch.tanh(ctx.saved_tensors[0]) ** 2))


class SecondForbidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        raise RuntimeError("derivative for tanh_backward is not implemented")


class Once(Raising):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * (1 - torch.tanh(ctx.saved_tensors[0]) ** 2)


class Detached(Raising):
    """As gradients of a sharded module: they come out without a graph, and nothing is said."""

    @staticmethod
    def backward(ctx, g):
        return (g * (1 - torch.tanh(ctx.saved_tensors[0]) ** 2)).detach()


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


class Checkpointed(nn.Sequential):
    def forward(self, x):
        return checkpoint(lambda x: nn.Sequential.forward(self, x), x, use_reentrant=True)


BREAKERS = {
    "raises": (lambda: Apply(Raising), "no second derivative: RuntimeError: derivative for tanh_backward"),
    "once differentiable": (lambda: Apply(Once), "not symmetric"),
    "detached": (lambda: Apply(Detached), "not symmetric"),
    "reentrant checkpoint": (lambda: Checkpointed(nn.Tanh()), "no second derivative: RuntimeError: When use_reent"),
}


def twins(breaker):
    """Two models of the same weights, one of which cannot be differentiated twice."""
    plain = Case(*case("MLP", "mean of squares"))
    broken = nn.Sequential(plain.model[0], BREAKERS[breaker][0](), plain.model[2])
    return plain, plain._replace(model=broken)


@pytest.mark.parametrize("breaker", BREAKERS)
def test_without_a_second_derivative_differences_are_taken_and_the_route_says_why(breaker):
    plain, broken = twins(breaker)
    for _ in range(2):
        H = hessian(broken.model, loss_of(broken), broken.batch)
        assert H.route.startswith("central difference of gradients (")
        assert BREAKERS[breaker][1] in H.route
        assert not H.check.is_passed
        torch.testing.assert_close(whole(H), dense_hessian(plain), rtol=0, atol=1e-8)


def test_a_gradient_detached_in_every_parameter_is_seen():
    """Then the kept graph says zero, which is symmetric: only the difference knows."""
    plain = case("MLP", "mean of squares")

    class Everything(torch.autograd.Function):
        @staticmethod
        def forward(ctx, loss, *w):
            with torch.enable_grad():
                ctx.g = torch.autograd.grad(loss_of(plain)(plain.model, plain.batch), w)
            return loss.clone()

        @staticmethod
        def backward(ctx, g):
            return None, *ctx.g

    def loss_fn(model, batch):
        with torch.no_grad():
            loss = loss_of(plain)(model, batch)
        return Everything.apply(loss, *model.parameters())

    H = hessian(plain.model, loss_fn, plain.batch, route="kept graph")
    assert not whole(H).any()
    check = self_check(H)
    assert check.symmetry == 0
    assert 0.99 < check.agreement <= 1
    assert not check.is_passed
    assert "do not agree" in check.words


def test_a_loss_that_is_linear_passes_with_a_zero_hessian():
    H = hessian(nn.Linear(3, 1), lambda model, x: model(x).mean(), torch.randn(4, 3))
    assert H.check.is_passed
    assert not whole(H).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_relu_network_passes_in_either_precision(dtype):
    model = nn.Sequential(nn.Linear(5, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 2)).to(dtype)
    batch = torch.randn(64, 5, dtype=dtype), torch.randn(64, 2, dtype=dtype)
    H = hessian(model, lambda model, batch: mean_squares(model(batch[0]), batch), batch)
    assert H.route == "kept graph"
    assert H.check.agreement < 1e-5


def test_a_wrong_product_fails_the_check_by_its_agreement():
    c = case("transformer", "cross-entropy")
    H = Hessian(c.model, loss_of(c), c.batch)
    right = self_check(H)
    apply = H.apply
    H.apply = lambda v: 1.2 * apply(v)
    wrong = self_check(H)
    assert right.is_passed
    assert wrong.symmetry < 1e-10
    assert wrong.agreement == pytest.approx(0.2 / 1.2, rel=1e-3)
    assert not wrong.is_passed


def test_a_check_is_made_once_a_model_and_loss(monkeypatch):
    c, made = case("MLP", "mean of squares"), []

    def counted(H):
        made.append(H.route)
        return self_check(H)

    monkeypatch.setattr("tightrope.curvature.routes.self_check", counted)
    first, second = loss_of(c), loss_of(c)
    for loss_fn in (first, second, lambda model, batch: first(model, batch)):
        hessian(c.model, loss_fn, c.batch)
    c.model.eval()
    hessian(c.model, first, c.batch)
    assert len(made) == 3


def test_what_is_not_finite_is_not_judged():
    c = case("MLP", "mean of squares")
    H = hessian(c.model, loss_of(c), (c.batch[0] * math.nan, c.batch[1]))
    assert math.isnan(H.loss)
    assert H.check is None
    assert hessian(c.model, loss_of(c), c.batch).check.is_passed


@pytest.mark.parametrize("route", [*ROUTES, "auto"])
def test_an_empty_batch_is_nan_and_not_flat(route):
    c = case("MLP", "mean of squares")
    H = hessian(c.model, loss_of(c), tuple(x[:0] for x in c.batch), route=route)
    assert math.isnan(H.loss)
    assert H.gradient.isnan().all()
    assert (H @ torch.ones(H.size)).isnan().all()
    assert top_eigenvalues(H).status == "not_finite"
    if isinstance(H, Hessian):
        assert H.apply_block(torch.ones(3), slice(0, 3)).isnan().all()
        check = self_check(H)
        assert not check.is_passed
        assert check.words == "the loss is not finite"


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_loss_by_another_kernel_than_a_plain_call_takes_is_told():
    """The fused layer of inference zeroes padded outputs, which then enter the mean."""
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    encoder, head = nn.TransformerEncoder(layer, 2).eval().requires_grad_(False), nn.Linear(4, 3)
    model = nn.ModuleDict({"encoder": encoder, "head": head}).eval()
    padding = (torch.arange(5) > 2).expand(6, 5)

    def loss_fn(model, batch):
        z = model["encoder"](batch[0], src_key_padding_mask=batch[2]).mean(1)
        return nn.functional.cross_entropy(model["head"](z), batch[1])

    batch = torch.randn(6, 5, 4), torch.randint(3, (6,)), padding
    with torch.no_grad():
        plain = float(loss_fn(model, batch))
    H = hessian(model, loss_fn, batch)
    assert H.check.is_passed
    assert f"the loss measured, {H.loss:.6g}, is not the {plain:.6g} of a plain call" in H.check.words
    whole = hessian(model, lambda model, batch: loss_fn(model, (*batch, None)), batch[:2])
    assert "plain call" not in whole.check.words


def test_a_loss_that_raises_is_heard_as_itself():
    def loss_fn(model, batch):
        raise RuntimeError("no such file")

    with pytest.raises(RuntimeError, match=r"^no such file$"):
        hessian(nn.Linear(2, 1), loss_fn, None)


# The error of a difference


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", MODELS)
def test_a_difference_is_within_its_own_error(model, dtype):
    c = case(model, "cross-entropy")
    expected = dense_hessian(c)
    batch = tuple(x.to(dtype) if x.is_floating_point() else x for x in c.batch)
    torch.manual_seed(1)
    H = FiniteDifference(c.model.to(dtype), loss_of(c), batch, dtype=dtype)
    assert H.error == 0
    A = whole(H)
    worst = float((A.double() - expected).norm(dim=0).max())
    assert worst <= H.error + torch.finfo(dtype).eps * float(expected.norm())
    assert H.error <= (1e-2 if dtype == torch.float32 else 1e-6) * float(expected.norm())


def test_a_sharp_direction_gets_a_shorter_step():
    """exp(50 w_0): its third derivative is 50 times its second, the rest of the loss is quadratic."""
    model = nn.Linear(100, 1, bias=False)
    nn.init.ones_(model.weight)

    def loss_fn(model, x):
        w = model.weight[0]
        return torch.exp(500 * (w[0] - 1)) / 500**2 + (w**2).sum() / 2

    H = FiniteDifference(model.float(), loss_fn, None, dtype=torch.float32)
    e = torch.eye(100, dtype=torch.float32)[0]
    assert abs(float((H @ e)[0]) - 2) < 2e-2


def test_a_difference_of_nothing_is_nothing():
    c = case("MLP", "mean of squares")
    H = FiniteDifference(c.model, loss_of(c), c.batch)
    assert not (H @ torch.zeros(H.size)).any()
    assert (H @ torch.full((H.size,), math.nan)).isnan().all()


def test_a_difference_refuses_a_loss_that_goes_past_the_model():
    model = nn.Linear(3, 1)
    weight = model.weight
    with pytest.raises(ShapeError, match="must reach the weights through the model it is given; it uses a parameter"):
        FiniteDifference(model, lambda model, x: (model(x) ** 2).mean() + (weight**2).sum(), torch.ones(2, 3))


def test_dropout_is_drawn_alike_in_every_product():
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3))
    c = Case(model, forward, mean_squares, (torch.randn(6, 3), torch.randn(6, 3)))
    for route in ROUTES:
        torch.manual_seed(1)
        H = hessian(model, loss_of(c), c.batch, route=route)
        torch.manual_seed(7)
        torch.testing.assert_close(whole(H), dense_hessian(c), rtol=0, atol=1e-8)


# Lists of batches, parts of models


@pytest.mark.parametrize("weights", [(), (1, 1), (0.25, 0.75)])
@pytest.mark.parametrize("route", ROUTES)
def test_micro_batches_add_up(route, weights):
    c = case("MLP", "mean of squares")
    parts = [tuple(x[:2] for x in c.batch), tuple(x[2:] for x in c.batch)]
    expected = sum(
        weight * dense_hessian(c._replace(batch=part))
        for weight, part in zip(weights or (0.5, 0.5), parts, strict=True)
    )
    for chunk_size in (None, 1, 3):
        H = hessian(c.model, loss_of(c), MicroBatches(parts, weights), chunk_size=chunk_size, route=route)
        torch.testing.assert_close(whole(H), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("batches", "weights"), [([], ()), (["a"], (1.0, 2.0))])
def test_micro_batches_without_batches_or_with_other_weights_are_refused(batches, weights):
    with pytest.raises(ShapeError, match="needs one batch or more, and a weight for each"):
        MicroBatches(batches, weights)


@pytest.mark.parametrize("route", ROUTES)
def test_a_part_of_the_parameters_gives_a_lower_bound_and_says_so(route):
    c = case("MLP", "mean of squares")
    last = list(c.model[2].parameters())
    H = hessian(c.model, loss_of(c), c.batch, params=last, route=route)
    every = dense_hessian(c)
    torch.testing.assert_close(whole(H), every[16:, 16:], rtol=0, atol=1e-8)
    assert f"block of 15 of {len(every)} parameters, whose largest eigenvalue is a lower bound" in H.route
    assert float(top_eigenvalues(H).values[0]) <= float(torch.linalg.eigvalsh(every)[-1])


# Misuse


def test_an_unknown_route_is_refused():
    with pytest.raises(ConfigError, match="route must be 'auto' or one of kept graph, rebuilt graph, central diff"):
        hessian(nn.Linear(1, 1), mean_squares, None, route="magic")


def test_a_frozen_parameter_is_refused():
    c = case("low-rank update", "mean of squares")
    with pytest.raises(
        ShapeError, match=r"must require a gradient; got one with requires_grad=False of shape \(4, 3\)"
    ):
        Hessian(c.model, loss_of(c), c.batch, params=[c.model.base.weight])
    assert len(trainable(c.model)) == 2


def test_a_measurement_goes_by_the_route_that_works():
    plain, broken = twins("once differentiable")
    optimizer = torch.optim.SGD(broken.model.parameters(), lr=0.1)
    m = measure(broken.model, optimizer, loss_of(broken), broken.batch, rtol=1e-6)
    assert m.route.startswith("central difference of gradients (products are not symmetric")
    assert m.check in m.route
    truth = float(torch.linalg.eigvalsh(dense_hessian(plain))[-1])
    assert m.sharpness == pytest.approx(truth, rel=1e-6)


def losses_of_one_code(activation):
    """Closures with one code that hold different things."""

    def loss_fn(model, batch):
        return activation(model(batch[0])).square().mean()

    return loss_fn


def through(activation, model, batch):
    return activation(model(batch[0])).square().mean()


@pytest.mark.parametrize("make", [losses_of_one_code, lambda activation: partial(through, activation)])
def test_a_check_is_of_the_loss_with_what_it_holds(make):
    c = case("MLP", "mean of squares")
    assert hessian(c.model, make(torch.tanh), c.batch).check.is_passed
    wrong = hessian(c.model, make(Once.apply), c.batch)
    assert not wrong.check.is_passed
    right = hessian(c.model, make(torch.tanh), c.batch)
    assert right.route == "kept graph"


def test_a_switch_of_the_model_is_a_model_not_yet_checked():
    class Switched(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.is_opaque = nn.Linear(3, 4), False

        def forward(self, x):
            return Once.apply(self.layer(x)) if self.is_opaque else torch.tanh(self.layer(x))

    model, batch = Switched(), torch.randn(8, 3)

    def loss_fn(model, x):
        return model(x).square().mean()

    assert hessian(model, loss_fn, batch).route == "kept graph"
    model.is_opaque = True
    assert hessian(model, loss_fn, batch).route.startswith("central difference")


def test_a_parameter_given_twice_is_refused():
    c = case("MLP", "mean of squares")
    params = [*c.model.parameters()]
    with pytest.raises(ShapeError, match="each parameter must be given once"):
        hessian(c.model, loss_of(c), c.batch, params=[*params, params[0]])
