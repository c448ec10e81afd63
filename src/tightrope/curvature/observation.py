"""Evaluate a model's loss for curvature without leaving a trace on the model or on any random state."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def observing(model: nn.Module) -> Iterator[None]:
    """Gradients on, kernels twice differentiable; afterwards buffers and random states are as they were.

    Attention runs in its plain form, compiled modules run eagerly, and embeddings do not renormalise. The forward
    pass works on copies of the buffers, so that graphs built here stay valid when the originals change, and the
    originals keep every bit.
    """
    originals = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    with ExitStack() as stack:
        stack.enter_context(_random_states_kept(model))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_not_renormalising(model))
        if any(_is_compiled(module) for module in model.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for module, buffers in originals:
                for name, buffer in buffers.items():
                    module._buffers[name] = None if buffer is None else buffer.clone()
            yield
        finally:
            for module, buffers in originals:
                module._buffers.update(buffers)


@contextmanager
def _random_states_kept(model: nn.Module) -> Iterator[None]:
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    python_state = random.getstate()
    numpy_random = sys.modules.get("numpy.random")
    numpy_state = numpy_random.get_state() if numpy_random else None
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(python_state)
        if numpy_random:
            numpy_random.set_state(numpy_state)


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


def _is_compiled(module: nn.Module) -> bool:
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
