"""Convolutions whose backward pass, differentiated, computes what is asked for and no more.

torch 2.13 differentiates the backward pass of a convolution in all of its arguments, whichever are wanted, and in the
weight by a convolution that takes the batch for channels. Here each part is one call of a kernel that training uses.
Values and first derivatives are torch's own.

Legend: b = bias, g = gradient in the output, u, U, v = what multiplies the gradients in x, w and b, w = weight,
x = input. The output is bilinear in x and w, and the gradient in either is bilinear in g and the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

aten = torch.ops.aten

Settings = tuple[list[int], list[int], list[int], bool, list[int], int]
"""Stride, padding, dilation, whether it is transposed, output padding, groups: as `aten::convolution` takes them."""


class Convolution(torch.autograd.Function):
    """`aten::convolution` of x and w, plus b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, settings: Settings) -> Any:
        ctx.save_for_backward(x, w)
        ctx.settings = settings
        return aten.convolution(x, w, b, *settings)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        with torch._C.DisableTorchFunction():
            return *ConvolutionBackward.apply(g, x, w, _wanted(ctx)[:3], ctx.settings), None


class ConvolutionBackward(torch.autograd.Function):
    """`aten::convolution_backward`: those of the gradients in x, w and b that are wanted."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, wanted: list[bool], settings: Settings) -> Any:
        ctx.save_for_backward(g, x, w)
        ctx.set_materialize_grads(False)
        ctx.settings = settings
        return _gradients(g, x, w, settings, wanted)

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, U: Tensor | None, v: Tensor | None) -> Any:
        g, x, w = ctx.saved_tensors
        in_g, in_x, in_w = _wanted(ctx)[:3]
        with torch._C.DisableTorchFunction():
            dg = _along(g, x, w, u, U, v, ctx.settings) if in_g else None
            dx = _gradients(g, x, U, ctx.settings, [True, False, False])[0] if in_x and U is not None else None
            dw = _gradients(g, u, w, ctx.settings, [False, True, False])[1] if in_w and u is not None else None
        return dg, dx, dw, None, None


def _along(
    g: Tensor, x: Tensor, w: Tensor, u: Tensor | None, U: Tensor | None, v: Tensor | None, settings: Settings
) -> Tensor | None:
    """The change of the output, of the shape of g, as x, w and b move along u, U and v."""
    parts = []
    if u is not None:
        parts.append(aten.convolution(u, w, None, *settings))
    if U is not None:
        parts.append(aten.convolution(x, U, v, *settings))
    elif v is not None:
        parts.append(v.view(1, -1, *[1] * (x.ndim - 2)).expand_as(g))
    return sum(parts[1:], start=parts[0]) if parts else None


def _gradients(g: Tensor, x: Tensor, w: Tensor, settings: Settings, wanted: list[bool]) -> Any:
    return aten.convolution_backward(g, x, w, [g.shape[1]], *settings, wanted)


def _wanted(ctx: Any) -> list[bool]:
    """Which gradients the backward pass under way asks for; `needs_input_grad` knows only those it could ask for."""
    return [node is not None and _is_met(node) for node, _ in ctx.next_functions] + [False]  # where there is no bias


def _is_met(node: Any) -> bool:
    try:
        return torch._C._will_engine_execute_node(node)
    except RuntimeError:  # of a leaf that is asked for, and of no other
        return True


def _direct(torch_function: Any, num_axes: int) -> Callable[..., Any]:
    """A `torch.conv1d`, `conv2d` or `conv3d` in this form; as it is for what the form does not cover."""

    def convolve(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Any:
        padding = 0 if padding == "valid" else padding
        if not _is_plain(input, weight, num_axes) or isinstance(padding, str):
            return torch_function(input, weight, bias, stride, padding, dilation, groups)
        numbers = (_each(value, num_axes) for value in (stride, padding, dilation))
        return Convolution.apply(input, weight, bias, (*numbers, False, [0] * num_axes, groups))

    return convolve


def _transposed(torch_function: Any, num_axes: int) -> Callable[..., Any]:
    """The same for `torch.conv_transpose1d` and its like."""

    def convolve(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        if not _is_plain(input, weight, num_axes):
            return torch_function(input, weight, bias, stride, padding, output_padding, groups, dilation)
        numbers = (_each(value, num_axes) for value in (stride, padding, dilation))
        return Convolution.apply(input, weight, bias, (*numbers, True, _each(output_padding, num_axes), groups))

    return convolve


def _is_plain(x: Any, w: Any, num_axes: int) -> bool:
    """Real tensors of a batch, outside every functional transform and forward mode, which know torch's own only."""
    return (
        all(type(z) in (Tensor, nn.Parameter) and z.ndim == num_axes + 2 and z.is_floating_point() for z in (x, w))
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
    )


def _each(value: Any, num_axes: int) -> list[int]:
    """A setting for each axis."""
    values = [value] if isinstance(value, int) else list(value)
    return values * num_axes if len(values) == 1 else values


LEAN: dict[Any, Callable[..., Any]] = {
    torch.conv1d: _direct(torch.conv1d, 1),
    torch.conv2d: _direct(torch.conv2d, 2),
    torch.conv3d: _direct(torch.conv3d, 3),
    torch.conv_transpose1d: _transposed(torch.conv_transpose1d, 1),
    torch.conv_transpose2d: _transposed(torch.conv_transpose2d, 2),
    torch.conv_transpose3d: _transposed(torch.conv_transpose3d, 3),
}
"""The convolutions of torch, each in such a form."""
