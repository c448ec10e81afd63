"""Every module, every loss, every way of cutting a batch: the dense matrix of the parts; and no bit is changed."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo import eval_frame
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from tightrope.curvature import Fisher, GaussNewton, Hessian, MicroBatches, RebuiltHessian, hessian

from .modules import CRITERIA, MODELS, case, dense_gauss_newton, dense_hessian, loss_of, trained, weights
from .test_observation import held
from .test_routes import Apply, Once, Raising


@pytest.fixture(autouse=True)
def _double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def compare(H, expected, rtol=1e-11):
    """On four random vectors, in which every entry of a wrong matrix shows."""
    V = torch.randn(H.size, 4)
    torch.testing.assert_close(H @ V, expected @ V, rtol=0, atol=rtol * float(torch.linalg.matrix_norm(expected, 2)))


@pytest.mark.parametrize("model", MODELS)
def test_the_oracle_is_that_of_torch(model):
    """`torch.autograd.functional.hessian` of a loss of the flat vector, written out again."""
    c = case(model, "cross-entropy")
    named, buffers = trained(c), {name: x.clone() for name, x in c.model.named_buffers()}

    def loss(w):
        parts = w.split([x.numel() for x in named.values()])
        values = {name: part.view(x.shape) for (name, x), part in zip(named.items(), parts, strict=True)}
        z = functional_call(c.model, values | {name: x.clone() for name, x in buffers.items()}, (c.batch[0],))
        return c.criterion(z, c.batch)

    with sdpa_kernel(SDPBackend.MATH):
        expected = torch.autograd.functional.hessian(loss, weights(c))
    torch.testing.assert_close(dense_hessian(c), expected, rtol=1e-11, atol=1e-12)


def cut(c, lengths):
    """The case on consecutive parts of its batch."""
    parts = zip(*(x.split(lengths) for x in c.batch), strict=True)
    return [c._replace(batch=part) for part in parts]


WAYS = {
    "kept graph": (loss_of, Hessian, dense_hessian),
    "rebuilt graph": (loss_of, RebuiltHessian, dense_hessian),
    "Gauss-Newton": (None, GaussNewton, dense_gauss_newton),
}


def made(way, c, batch, **settings):
    loss, make, _ = WAYS[way]
    functions = [loss(c)] if loss else [c.forward, c.criterion]
    torch.manual_seed(1)
    return make(c.model, *functions, batch, **settings)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("model", MODELS)
def test_chunks_and_micro_batches_are_the_dense_matrices_of_their_parts(model, criterion, way):
    c = case(model, criterion)
    oracle = WAYS[way][2]
    first, second = (oracle(part) for part in cut(c, [4, 2]))
    compare(made(way, c, c.batch, chunk_size=4), 4 / 6 * first + 2 / 6 * second)
    batches = MicroBatches([part.batch for part in cut(c, [4, 2])], (1.0, 0.5))
    compare(made(way, c, batches), first + 0.5 * second)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("model", MODELS)
def test_differences_of_micro_batches_are_the_dense_matrix_too(model, criterion):
    c = case(model, criterion)
    expected = sum(dense_hessian(part) for part in cut(c, [4, 2])) / 2
    H = hessian(c.model, loss_of(c), MicroBatches([part.batch for part in cut(c, [4, 2])]), route="central difference")
    V = torch.nn.functional.normalize(torch.randn(H.size, 4), dim=0)
    off, size = float((H @ V - expected @ V).norm(dim=0).max()), float(torch.linalg.matrix_norm(expected, 2))
    # Batch statistics of two examples have so large a third derivative that only the operator's own error is held.
    assert off <= H.error + 1e-12 * size
    assert H.error <= (1e-7 if model == "BatchNorm" else 1e-8) * size


@pytest.mark.parametrize("model", MODELS)
def test_the_exact_fisher_is_the_dense_matrix_of_its_criterion(model):
    c = case(model, "cross-entropy")
    compare(Fisher(c.model, c.forward, c.criterion, c.batch), dense_gauss_newton(c))
    c = case(model, "mean of squares")
    compare(Fisher(c.model, c.forward, c.criterion, c.batch, distribution="normal"), dense_gauss_newton(c))


# Nothing is changed


class Repeated(nn.Module):
    """A body that a checkpoint runs again in every backward pass, with batch statistics and dropout."""

    def __init__(self, use_reentrant):
        super().__init__()
        self.first, self.head, self.use_reentrant = nn.Linear(3, 3), nn.Linear(4, 3), use_reentrant
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Tanh())

    def forward(self, x):
        return self.head(checkpoint(self.body, self.first(x), use_reentrant=self.use_reentrant))


class Cast(nn.Module):
    """Autocast in the model itself."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.inner(x)


def with_function(function):
    return nn.Sequential(nn.Linear(3, 4), Apply(function), nn.Linear(4, 3))


def of(model, dtype=None):
    """A case of this model, in this type if one is given."""
    c = case("MLP", "cross-entropy")._replace(model=model)
    return c if dtype is None else in_type(c, dtype)


def in_type(c, dtype):
    c.model.to(dtype)
    return c._replace(batch=tuple(x.to(dtype) if x.is_floating_point() else x for x in c.batch))


SPECIAL = {
    "checkpoint": lambda: of(Repeated(use_reentrant=False)),
    "reentrant checkpoint": lambda: of(Repeated(use_reentrant=True)),
    "no second derivative": lambda: of(with_function(Raising)),
    "once differentiable": lambda: of(with_function(Once)),
    "autocast": lambda: of(Cast(MODELS["MLP"][0]()), torch.float32),
    "compiled": lambda: of(torch.compile(MODELS["MLP"][0](), backend="eager")),
}
SPECIAL |= {model: lambda model=model: case(model, "cross-entropy") for model in MODELS}
SPECIAL |= {
    f"{model}, bfloat16": lambda model=model: in_type(case(model, "cross-entropy"), torch.bfloat16) for model in MODELS
}
SPECIAL["transformer, float16"] = lambda: in_type(case("transformer", "cross-entropy"), torch.float16)

OPERATORS = {
    "auto": lambda c: hessian(c.model, loss_of(c), c.batch),
    "kept graph": lambda c: hessian(c.model, loss_of(c), c.batch, route="kept graph"),
    "rebuilt graph": lambda c: hessian(c.model, loss_of(c), c.batch, route="rebuilt graph"),
    "central difference": lambda c: hessian(c.model, loss_of(c), c.batch, route="central difference"),
    "Gauss-Newton": lambda c: GaussNewton(c.model, c.forward, c.criterion, c.batch),
    "Fisher": lambda c: Fisher(c.model, c.forward, c.criterion, c.batch, num_samples=2),
}


def state(c):
    """Every bit of a model, its batch, the random state and the switches."""
    modules = dict(c.model.named_modules())
    return {
        "weights": {name: held(w) for name, w in c.model.named_parameters(remove_duplicate=False)},
        "gradients": {name: held(w.grad) for name, w in c.model.named_parameters()},
        "requires_grad": {name: w.requires_grad for name, w in c.model.named_parameters()},
        "hooks": {name: copy.copy(w._backward_hooks) for name, w in c.model.named_parameters()},
        "buffers": {f"{m}.{b}": held(x) for m, module in modules.items() for b, x in module._buffers.items()},
        "modes": {name: module.training for name, module in modules.items()},
        "batch": [(held(x), x.requires_grad) for x in c.batch],
        "random": torch.get_rng_state().tolist(),
        "switches": (
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.overrides._get_current_function_mode_stack(),
            eval_frame._stance.stance,
            torch.get_default_dtype(),
            torch.conv2d,
        ),
    }


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("special", SPECIAL)
def test_a_look_at_any_module_leaves_every_bit_as_it_was(special, operator):
    c = SPECIAL[special]()
    for i, w in enumerate(w for w in c.model.parameters() if w.requires_grad):
        w.grad = torch.full_like(w, float("nan")) if i % 2 else None
        w.register_hook(lambda g: g * 0)
    before = state(c)
    try:
        H = OPERATORS[operator](c)
        product = H @ torch.ones(H.size, dtype=H.dtype)
    except Exception:
        # It has no second derivative and the route was asked for by name; what it leaves behind matters all the same.
        assert special in ("reentrant checkpoint", "no second derivative", "once differentiable")
        assert operator not in ("auto", "central difference")
    else:
        assert product.isfinite().all()
        assert product.any()
    assert state(c) == before


def test_a_hook_on_a_weight_does_not_reach_the_curvature():
    c = case("CNN", "cross-entropy")
    expected = dense_hessian(c)
    for w in c.model.parameters():
        w.register_hook(lambda g: g * 0)
    for route in ("kept graph", "rebuilt graph", "central difference"):
        compare(hessian(c.model, loss_of(c), c.batch, route=route), expected, rtol=1e-8)


def test_the_state_sees_each_thing_that_can_change():
    changes = {
        "weights": lambda c: c.model[0].weight.data.mul_(1 + 1e-15),
        "gradients": lambda c: setattr(c.model[0].weight, "grad", torch.zeros(4, 3)),
        "requires_grad": lambda c: c.model[0].bias.requires_grad_(False),
        "buffers": lambda c: c.model[1].num_batches_tracked.add_(1),
        "modes": lambda c: c.model[1].eval(),
        "batch": lambda c: c.batch[0].add_(1),
        "random": lambda c: torch.rand(1),
    }
    for name, change in changes.items():
        c = case("BatchNorm", "cross-entropy")
        before = state(c)
        change(c)
        after = state(c)
        assert [key for key in before if before[key] != after[key]] == [name]
