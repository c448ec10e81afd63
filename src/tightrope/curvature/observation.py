"""Evaluate a model's loss for curvature without leaving a trace on the model or on any random state."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def observing(model: nn.Module) -> Iterator[None]:
    """Gradients on, attention in its twice differentiable form; buffers and random states as they were after.

    The forward pass works on copies of the buffers, so that graphs built here stay valid when the originals
    change, and the originals keep every bit.
    """
    originals = [(module, dict(module._buffers)) for module in model.modules() if module._buffers]
    with ExitStack() as stack:
        stack.enter_context(_random_states_kept(model))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
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
