"""Convolutions in their lean form are torch's own, to every derivative, and compute no part that is not wanted."""

import copy
from collections import Counter
from itertools import combinations

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.functional import conv1d, conv2d, conv_transpose2d
from torch.utils._python_dispatch import TorchDispatchMode

from tightrope.curvature import GaussNewton, Hessian
from tightrope.curvature.convolution import LEAN

from .modules import case, dense_gauss_newton, dense_hessian, forward, loss_of, mean_squares


@pytest.fixture(autouse=True)
def _double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


FORMS = {
    "plain": {},
    "stride": {"stride": 2},
    "padding": {"padding": 1, "dilation": 2},
    "groups": {"groups": 2, "padding": 1},
    "no bias": {"bias": None},
    "all": {"stride": 2, "padding": 1, "dilation": 2, "groups": 2},
}


def arguments(num_axes, is_transposed, form):
    """Input, weight, bias and settings of one convolution from 4 channels to 6."""
    settings = dict(form)
    groups = settings.get("groups", 1)
    channels = (4, 6 // groups) if is_transposed else (6, 4 // groups)
    x, w = torch.randn(3, 4, *[5] * num_axes), torch.randn(*channels, *[2] * num_axes)
    bias = settings.pop("bias", torch.randn(6))
    return [z if z is None else z.requires_grad_() for z in (x, w, bias)], settings


def second_derivatives(convolve, inputs, settings):
    """Output, gradients of a scalar made of it, and the gradients of a scalar made of those, in each input."""
    present = [x for x in inputs if x is not None]
    z = convolve(*inputs, **settings)
    first = torch.autograd.grad(torch.sin(z).sum(), present, create_graph=True)
    second = torch.autograd.grad(sum(torch.cos(g).sum() for g in first), present)
    return z.detach(), [g.detach() for g in first], second


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("convolve", LEAN, ids=lambda f: f.__name__)
def test_every_form_has_the_values_and_derivatives_of_torch(convolve, form):
    num_axes, is_transposed = int(convolve.__name__[-2]), "transpose" in convolve.__name__
    inputs, settings = arguments(num_axes, is_transposed, FORMS[form])
    z, first, second = second_derivatives(LEAN[convolve], inputs, settings)
    expected = second_derivatives(convolve, inputs, settings)
    assert torch.equal(z, expected[0])
    for g, g_expected in zip(first, expected[1], strict=True):
        torch.testing.assert_close(g, g_expected, rtol=0, atol=0)
    for h, h_expected in zip(second, expected[2], strict=True):
        torch.testing.assert_close(h, h_expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("is_transposed", [False, True])
def test_derivatives_agree_with_differences(is_transposed):
    inputs, settings = arguments(1, is_transposed, FORMS["all"])
    convolve = LEAN[torch.conv_transpose1d if is_transposed else torch.conv1d]
    assert torch.autograd.gradcheck(lambda *z: convolve(*z, **settings), inputs)
    assert torch.autograd.gradgradcheck(lambda *z: convolve(*z, **settings), inputs)


def test_a_third_derivative_is_torchs_too():
    inputs, settings = arguments(2, False, FORMS["plain"])

    def third(convolve):
        z = torch.sin(convolve(*inputs, **settings)).sum()
        for _ in range(2):
            z = sum(torch.sin(g).sum() for g in torch.autograd.grad(z, inputs, create_graph=True))
        return torch.autograd.grad(z, inputs)

    for g, expected in zip(third(LEAN[torch.conv2d]), third(torch.conv2d), strict=True):
        torch.testing.assert_close(g, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("wanted", [c for k in (1, 2, 3) for c in combinations(range(3), k)], ids=str)
def test_any_choice_of_inputs_is_differentiated(wanted):
    inputs, settings = arguments(2, False, FORMS["all"])
    dual, chosen = torch.randn(3, 6, 3, 3).requires_grad_(), [inputs[i] for i in wanted]

    def derivatives(convolve):
        g = torch.autograd.grad(convolve(*inputs, **settings), chosen, dual, create_graph=True)
        return *g, *torch.autograd.grad([x.sin().sum() for x in g], [dual, *chosen], allow_unused=True)

    for found, expected in zip(derivatives(LEAN[torch.conv2d]), derivatives(torch.conv2d), strict=True):
        assert (found is None) == (expected is None)
        if found is not None:
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


class Kernels(TorchDispatchMode):
    """Counts convolutions, and which gradients of them are computed."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution.default:
            self.calls["forward"] += 1
        if func is torch.ops.aten.convolution_backward.default:
            self.calls.update(name for name, is_wanted in zip(("input", "weight"), args[10], strict=False) if is_wanted)
        return func(*args, **(kwargs or {}))


def counted(work):
    with Kernels() as kernels:
        work()
    return dict(kernels.calls)


def test_no_product_computes_a_part_it_does_not_need():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    batch = torch.randn(2, 1, 6, 6), torch.randn(2, 3)
    G, H = (
        GaussNewton(model, forward, mean_squares, batch),
        Hessian(model, lambda m, b: mean_squares(m(b[0]), b), batch),
    )
    v = torch.randn(G.size)
    # J v: both layers along the weight, the second along its input too. J'u: both weights, the second's input.
    assert counted(lambda: G @ v) == {"forward": 3, "weight": 2, "input": 1}
    # H v: forward again as J v; then back from the gradient of each weight and of the second's input.
    assert counted(lambda: H @ v) == {"forward": 3, "weight": 3, "input": 2}
    first = Hessian(model, lambda m, b: mean_squares(m(b[0]), b), batch, params=[model[5].weight])
    assert counted(lambda: first @ torch.randn(first.size)) == {}
    assert not H.objective.has_python_backward


# What the lean form does not cover


class Strange(nn.Module):
    """Convolutions written in every other way: keywords, named padding, one example alone, under vmap and jvp."""

    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(2, 2, 3, 3)), nn.Parameter(torch.randn(2))
        self.line = nn.Parameter(torch.randn(2, 2, 2))

    def forward(self, x):
        z = torch.tanh(conv2d(input=x, weight=self.w, bias=self.b, padding="valid"))
        z = z + torch.tanh(conv2d(x, self.w, padding="same"))[..., 1:-1, 1:-1]
        z = z + torch.stack([conv2d(each, self.w) for each in x]).sin()
        z = z + torch.vmap(lambda each: conv2d(each[None], self.w, stride=(1,))[0])(x).cos()
        z = z + torch.func.jvp(lambda y: conv2d(y, self.w).tanh(), (x,), (x.cos(),))[1]
        with forward_ad.dual_level():
            along = forward_ad.make_dual(x, x.sin())
            z = z + forward_ad.unpack_dual(conv2d(along, self.w).tanh()).tangent
        z = z + conv_transpose2d(z[..., ::2, ::2], weight=self.w, padding=1, output_padding=0)[..., :2, :2]
        z = (
            z
            + torch.view_as_real(conv1d(torch.complex(z, z).flatten(2), self.line + 0j)).sum((1, 2, 3))[
                :, None, None, None
            ]
        )
        return z.flatten(1)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # by torch's own forward mode, when it loads
def test_a_convolution_of_another_form_is_left_to_torch():
    c = case("CNN", "mean of squares")._replace(model=Strange(), batch=(torch.randn(2, 2, 4, 4), torch.randn(2, 8)))
    H, G = Hessian(c.model, loss_of(c), c.batch), GaussNewton(c.model, c.forward, c.criterion, c.batch)
    eye = torch.eye(H.size)
    torch.testing.assert_close(H @ eye, dense_hessian(c), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(G @ eye, dense_gauss_newton(c), rtol=1e-10, atol=1e-10)


def test_half_precision_convolutions_are_computed_in_float32():
    c = case("CNN", "cross-entropy")
    c.model.bfloat16()
    full = copy.deepcopy(c.model).float()
    batch = c.batch[0].float(), c.batch[1].float()
    H, expected = Hessian(c.model, loss_of(c), batch), Hessian(full, loss_of(c), batch)
    eye = torch.eye(H.size, dtype=torch.float32)
    assert torch.equal(H @ eye, expected @ eye)
