"""Evaluate a model's loss for curvature without leaving a trace on the model or on any random state."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def observing(
    model: nn.Module, *, dtype: torch.dtype | None = None, draws: RandomStates | None = None
) -> Iterator[None]:
    """Gradients on, kernels twice differentiable; afterwards buffers and random states are as they were.

    Attention runs in its plain form, compiled modules run eagerly, and embeddings do not renormalise. The forward
    pass works on copies of the buffers, of this floating type if one is given, so that graphs built here stay valid
    when the originals change, and the originals keep every bit. With `draws`, random numbers start from there.
    """
    originals = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    with ExitStack() as stack:
        stack.enter_context(_random_states_kept(model, draws))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_not_renormalising(model))
        if any(is_compiled(module) for module in model.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for module, buffers in originals:
                for name, buffer in buffers.items():
                    module._buffers[name] = None if buffer is None else _copied(buffer, dtype)
            yield
        finally:
            for module, buffers in originals:
                module._buffers.update(buffers)


def _copied(buffer: Tensor, dtype: torch.dtype | None) -> Tensor:
    return buffer.to(dtype if dtype and buffer.is_floating_point() else buffer.dtype, copy=True)


@dataclass(frozen=True)
class RandomStates:
    """Where every generator a forward pass may draw from stands."""

    torch_cpu: Tensor
    torch_cuda: dict[torch.device, Tensor]
    python: tuple[Any, ...]
    numpy: Any

    @classmethod
    def taken(cls, model: nn.Module) -> RandomStates:
        devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
        numpy_random = sys.modules.get("numpy.random")
        return cls(
            torch.get_rng_state(),
            {device: torch.cuda.get_rng_state(device) for device in devices},
            random.getstate(),
            numpy_random.get_state() if numpy_random else None,
        )

    def put_back(self) -> None:
        torch.set_rng_state(self.torch_cpu)
        for device, state in self.torch_cuda.items():
            torch.cuda.set_rng_state(state, device)
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy.random"].set_state(self.numpy)


@contextmanager
def _random_states_kept(model: nn.Module, draws: RandomStates | None) -> Iterator[None]:
    before = RandomStates.taken(model)
    try:
        if draws is not None:
            draws.put_back()
        yield
    finally:
        before.put_back()


@contextmanager
def _not_renormalising(model: nn.Module) -> Iterator[None]:
    """An embedding with max_norm rewrites its weights in the forward pass; not while we look."""
    embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.max_norm]
    limits = [embedding.max_norm for embedding in embeddings]
    try:
        for embedding in embeddings:
            embedding.max_norm = None
        yield
    finally:
        for embedding, limit in zip(embeddings, limits, strict=True):
            embedding.max_norm = limit


def is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile stands between a module and its forward pass."""
    return type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None


@contextmanager
def hooks_set_aside(params: Sequence[Tensor]) -> Iterator[None]:
    """A user's gradient hooks neither see nor change the gradients taken inside."""
    hooked = [(w, w._backward_hooks) for w in params if w._backward_hooks]
    try:
        for w, _ in hooked:
            w._backward_hooks = None
        yield
    finally:
        for w, hooks in hooked:
            w._backward_hooks = hooks
