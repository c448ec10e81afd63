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

from .bystanders import Bystander, is_generator, put_back, state_of


@contextmanager
def observing(
    model: nn.Module,
    *,
    dtype: torch.dtype | None = None,
    draws: RandomStates | None = None,
    others: Sequence[Bystander] = (),
) -> Iterator[None]:
    """Gradients on, kernels twice differentiable; afterwards buffers and random states are as they were.

    Attention runs in its plain form, what is compiled runs eagerly, and embeddings do not renormalise. The forward
    pass works on copies of the buffers, of this floating type if one is given, so that graphs built here stay valid
    when the originals change, and the originals keep every bit. With `draws`, random numbers start from there.

    Kept: the buffers of the model and of modules among `others`; the states of torch's, Python's and numpy's global
    generators and of generators, theirs too, among `others`. Not kept: buffers of any other module, any other
    generator, and attributes that a forward pass sets in Python.
    """
    own = list(model.modules())
    foreign = {id(part): part for each in others if isinstance(each, nn.Module) for part in each.modules()}
    strangers = [part for i, part in foreign.items() if i not in set(map(id, own))]
    originals = [(module, dict(module._buffers), dtype) for module in own if module._buffers]
    originals += [(module, dict(module._buffers), None) for module in strangers if module._buffers]
    with ExitStack() as stack:
        stack.enter_context(random_states_kept(model, draws, others))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(_not_renormalising([*own, *strangers]))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for module, buffers, floating in originals:
                for name, buffer in buffers.items():
                    module._buffers[name] = None if buffer is None else _copied(buffer, floating)
            yield
        finally:
            for module, buffers, _ in originals:
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
    others: tuple[tuple[Bystander, Any], ...] = ()

    @classmethod
    def taken(cls, model: nn.Module | None, others: Sequence[Bystander] = ()) -> RandomStates:
        parameters = () if model is None else model.parameters()
        devices = {p.device for p in parameters if p.device.type == "cuda"}
        numpy_random = sys.modules.get("numpy.random")
        return cls(
            torch.get_rng_state(),
            {device: torch.cuda.get_rng_state(device) for device in devices},
            random.getstate(),
            numpy_random.get_state() if numpy_random else None,
            tuple((each, state_of(each)) for each in others if is_generator(each)),
        )

    def put_back(self) -> None:
        torch.set_rng_state(self.torch_cpu)
        for device, state in self.torch_cuda.items():
            torch.cuda.set_rng_state(state, device)
        random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy.random"].set_state(self.numpy)
        for generator, state in self.others:
            put_back(generator, state)


@contextmanager
def random_states_kept(
    model: nn.Module | None = None, draws: RandomStates | None = None, others: Sequence[Bystander] = ()
) -> Iterator[None]:
    """Afterwards every generator stands where it stood; with `draws`, random numbers inside start from there.

    Those of Python, numpy and torch on the CPU, of the model's CUDA devices if one is given, and `others`.
    """
    before = RandomStates.taken(model, others)
    try:
        if draws is not None:
            draws.put_back()
        yield
    finally:
        before.put_back()


@contextmanager
def _not_renormalising(modules: Sequence[nn.Module]) -> Iterator[None]:
    """An embedding with max_norm rewrites its weights in the forward pass; not while we look."""
    embeddings = [m for m in modules if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.max_norm]
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


@contextmanager
def gradients_set_aside(leaves: Sequence[Tensor]) -> Iterator[None]:
    """Inside, `.grad` is None until it is written; a user's hooks on these leaves see none of that."""
    distinct = list({id(w): w for w in leaves}.values())
    gradients = [w.grad for w in distinct]
    # torch holds on to the dict of these hooks itself: they are taken out of it.
    hooked = [(hooks, dict(hooks)) for w in distinct if (hooks := w._post_accumulate_grad_hooks)]
    try:
        for w in distinct:
            w.grad = None
        for hooks, _ in hooked:
            hooks.clear()
        with hooks_set_aside(distinct):
            yield
    finally:
        for hooks, kept in hooked:
            hooks.update(kept)
        for w, g in zip(distinct, gradients, strict=True):
            w.grad = g
