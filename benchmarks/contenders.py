"""This library and three others on one task: a model, a criterion and data, in the form that each of them takes.

curvlinops-for-pytorch, pyhessian and hessian-eigenthings are installed for the benchmarks only; one that is missing
is named as not installed. Each gets its own copy of the model, and attention in its plain form, without which all
three stop with an error.

Legend: H = Hessian, v = vector (p,).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tightrope.curvature import Hessian
from tightrope.parameters import trainable

from .products import cases, half_squares, squared

PACKAGES = {
    "tightrope": "tightrope",
    "PyHessian data=": "pyhessian",
    "PyHessian dataloader=": "pyhessian",
    "curvlinops": "curvlinops",
    "hessian-eigenthings": "hessian_eigenthings",
}


class Criterion(nn.Module):
    """One of the losses of `products` as a module of outputs and targets, a mean over examples."""

    reduction = "mean"

    def __init__(self, is_squared: bool) -> None:
        super().__init__()
        self.is_squared = is_squared

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.is_squared:
            return half_squares(outputs, (outputs, targets))
        return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


@dataclass(frozen=True)
class Task:
    """What the Hessian is of: criterion(model(inputs), targets)."""

    model: nn.Module
    criterion: Criterion
    inputs: Tensor
    targets: Tensor

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        return self.inputs, self.targets

    def loss_fn(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self.criterion(model(batch[0]), batch[1])

    def gradient(self) -> tuple[Tensor, ...]:
        """The unit of cost: one gradient, attention in its plain form as in every product."""
        with sdpa_kernel(SDPBackend.MATH):
            return torch.autograd.grad(self.loss_fn(self.model, self.batch), list(self.model.parameters()))

    def copied(self) -> Task:
        return Task(copy.deepcopy(self.model), self.criterion, self.inputs, self.targets)


def tasks() -> dict[str, Task]:
    """The three models of `products`."""
    found = {}
    for name, (model, loss_fn, batch) in cases().items():
        x, y = batch if loss_fn is squared else (batch[:, :-1], batch[:, 1:])
        found[name] = Task(model, Criterion(loss_fn is squared), x.contiguous(), y.contiguous())
    return found


def is_installed(contender: str) -> bool:
    return find_spec(PACKAGES[contender]) is not None


@contextmanager
def plain_attention() -> Iterator[None]:
    """What a rival needs to run at all, and its warnings of leaking memory left unsaid."""
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def product(contender: str, task: Task) -> Callable[[], object]:
    """One product as a call without arguments, everything before it done, vectors in the library's own form."""
    task = task.copied()
    parameters = list(trainable(task.model).values())
    v = torch.randn(sum(w.numel() for w in parameters), dtype=parameters[0].dtype, device=parameters[0].device)
    if contender == "tightrope":
        H = Hessian(task.model, task.loss_fn, task.batch)
        v = v.to(H.dtype)
        return lambda: H @ v
    if contender.startswith("PyHessian"):
        multiply, parts = _in_parts(contender, task), _parted(v, parameters)
        return lambda: multiply(parts)
    multiply = rival(contender, task)
    return lambda: multiply(v)


def rival(contender: str, task: Task) -> Callable[[Tensor], Tensor]:
    """v -> Hv by another library, whose setting up is done here; under `plain_attention` if there is attention."""
    if contender == "curvlinops":
        return curvlinops(task, check_deterministic=False).__matmul__
    if contender == "hessian-eigenthings":
        return eigenthings(task).matvec
    multiply, parameters = _in_parts(contender, task), list(trainable(task.model).values())
    return lambda v: torch.cat([part.reshape(-1) for part in multiply(_parted(v, parameters))])


def pyhessian(task: Task, has_loader: bool) -> Any:
    """PyHessian's `hessian`; with data= it keeps the graph of the gradient, with dataloader= it makes it anew."""
    from pyhessian import hessian

    data = {"dataloader": [task.batch]} if has_loader else {"data": task.batch}
    return hessian(task.model, task.criterion, **data, cuda=task.inputs.is_cuda)


def curvlinops(task: Task, check_deterministic: bool = True) -> Any:
    """Its operator by forward over reverse mode; by default it checks with four passes that nothing is random."""
    from curvlinops import HessianLinearOperator

    parameters = list(trainable(task.model).values())
    return HessianLinearOperator(
        task.model, task.criterion, parameters, [task.batch], check_deterministic=check_deterministic
    )


def eigenthings(task: Task) -> Any:
    """Its operator by double backward, the graph made anew for each product."""
    from hessian_eigenthings import HessianOperator, supervised_loss

    return HessianOperator(task.model, [task.batch], supervised_loss(task.criterion))


def _in_parts(contender: str, task: Task) -> Callable[[list[Tensor]], Sequence[Tensor]]:
    """PyHessian's product, from and to one tensor a parameter."""
    from pyhessian.utils import hessian_vector_product

    if contender == "PyHessian dataloader=":
        loader = pyhessian(task, has_loader=True)
        return lambda parts: loader.dataloader_hv_product(parts)[1]
    kept = pyhessian(task, has_loader=False)
    return lambda parts: hessian_vector_product(kept.gradsH, kept.params, parts)


def _parted(v: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    parts = v.split([w.numel() for w in parameters])
    return [part.view_as(w) for part, w in zip(parts, parameters, strict=True)]
