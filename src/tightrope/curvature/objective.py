"""A model's loss on a batch as something to differentiate: which parameters, which pieces, in which precision.

Legend: p = number of parameters, w = parameters.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tightrope.errors import ShapeError
from tightrope.parameters import Layout, trainable

from .bystanders import bystanders
from .engine import differentiated, has_python_node
from .loss_curvature import LossFn
from .observation import RandomStates, hooks_set_aside, observing
from .pieces import pieces, tensors
from .precision import Precise, autocast_set_aside, below, stand_ins, standing_in, working_dtype


class Objective:
    """A loss, the parameters it is differentiated in, and the pieces of its batch.

    Args:
        model, loss_fn, batch, params, chunk_size: As in `Hessian`.
        dtype: To compute in; default the parameters' own, float32 for half precision.
        name: Who asks, for messages.
    Attributes:
        leaves: The tensors to differentiate in, one for each of `params`: themselves, or stand-ins in `dtype`.
        scope: Words on what is measured, empty for all parameters in their own precision.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        batch: Any,
        *,
        params: Sequence[Tensor] | None = None,
        chunk_size: int | None = None,
        dtype: torch.dtype | None = None,
        has_stand_ins: bool = False,
        name: str = "Hessian",
    ) -> None:
        self.model, self.loss_fn, self.batch, self.chunk_size, self.name = model, loss_fn, batch, chunk_size, name
        self.params = list(trainable(model).values()) if params is None else list(params)
        self._check_params()
        self.layout = Layout.of((str(i), w) for i, w in enumerate(self.params))
        self.device, self.dtype = self.params[0].device, dtype or working_dtype(self.params)
        self.is_raised = any(x.dtype in below(self.dtype) for x in (*model.parameters(), *self.params))
        self.has_stand_ins = has_stand_ins or self.is_raised
        self.stand_ins = stand_ins(model, self.params, self.dtype) if self.has_stand_ins else {}
        self.leaves: list[Tensor] = [self.stand_ins.get(id(w), w) for w in self.params]
        self.precise, self.has_python_backward = Precise(self.dtype), False
        self.pieces = list(pieces(batch, chunk_size))
        self.scope, self.others = self._scope(), bystanders(loss_fn)
        self.draws = RandomStates.taken(model, self.others)

    @contextmanager
    def environment(self) -> Iterator[None]:
        """What a forward or backward pass of the model runs in, so that it leaves no trace and rounds little.

        Raises:
            ShapeError: inference mode is on, in which nothing can be differentiated.
        """
        if torch.is_inference_mode_enabled():
            raise ShapeError(
                f"{self.name}: must be used outside torch.inference_mode(), in which no gradient exists; got it on. "
                "torch.no_grad() is no hindrance."
            )
        with ExitStack() as stack:
            dtype = self.dtype if self.is_raised else None
            stack.enter_context(observing(self.model, dtype=dtype, draws=self.draws, others=self.others))
            stack.enter_context(hooks_set_aside(self.params))
            if self.has_stand_ins:
                stack.enter_context(standing_in(self.model, self.stand_ins))
            stack.enter_context(autocast_set_aside())
            stack.enter_context(self.precise)
            yield

    @contextmanager
    def backward_environment(self) -> Iterator[None]:
        """What a later backward pass needs: all of it where that runs Python, as gradient checkpointing does."""
        if self.has_python_backward:
            with self.environment():
                yield
        else:
            with hooks_set_aside(self.params), autocast_set_aside():
                yield

    def evaluate(self, piece: Any, weight: float, function: LossFn | None = None) -> Any:
        """The weighted loss of one piece, a scalar that depends on a parameter; or what another function returns."""
        raised, elsewhere = self.precise.raised(piece) if self.is_raised else piece, self._elsewhere(piece)
        if "meta" in elsewhere:  # some kernels take such a tensor for one of theirs, and compute from no numbers
            raise self._misplaced(elsewhere)
        try:
            if function is not None:
                return function(self.model, raised)
            return weight * self.scalar(self.loss_fn(self.model, raised))
        except RuntimeError as error:
            if elsewhere and any(words in str(error) for words in ("device", "backend", "should be the same")):
                raise self._misplaced(elsewhere) from error
            if "nference tensor" in str(error):
                raise ShapeError(
                    f"{self.name}: the model and the batch must be made outside torch.inference_mode(); got a tensor "
                    "made inside. Clone it outside: x.clone()."
                ) from error
            raise

    def gradient(self, loss: Tensor, create_graph: bool = False) -> tuple[Tensor, ...]:
        """Of a loss, in each leaf; zero where it is not used, NaN where the loss is not finite, with its derivative.

        Raises:
            ShapeError: the loss depends on none of them, or on a parameter that was replaced by a stand-in.
            RuntimeError: only `backward()` might find what it depends on.
        """
        g = self.pulled(loss, torch.ones_like(loss), create_graph)
        if all(part is None for part in g):
            if has_python_node(loss):
                raise RuntimeError("Only backward() finds the gradient (reentrant checkpoints?). Measure by `hessian`.")
            raise self.unreached()
        if not math.isfinite(loss.detach()):  # that of no examples has gradients of zero
            return tuple(w * math.nan for w in self.leaves)
        return tuple(torch.zeros_like(w) if part is None else part for w, part in zip(self.leaves, g, strict=True))

    def loss(self) -> float:
        """The loss without a gradient."""
        return self.losses(1)[0]

    def losses(self, num: int) -> list[float]:
        """The loss without a gradient, one draw of random numbers after the other, from the same place each time."""
        with self.environment(), torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "None of the inputs have requires_grad")  # of a reentrant checkpoint
            return [
                sum(weight * float(self.evaluate(piece, weight, self.loss_fn)) for piece, weight in self.pieces)
                for _ in range(num)
            ]

    def plain_loss(self) -> float:
        """The loss as `loss_fn` gives it, with the same draws, when it may choose its own kernels."""
        with observing(self.model, draws=self.draws, others=self.others), hooks_set_aside(self.params):
            return sum(weight * float(self.loss_fn(self.model, piece).detach()) for piece, weight in self.pieces)

    def in_precision(self, dtype: torch.dtype) -> Objective:
        """The same loss, with the same random draws, of copies of the parameters in another type."""
        other = Objective(
            self.model,
            self.loss_fn,
            self.batch,
            params=self.params,
            chunk_size=self.chunk_size,
            dtype=dtype,
            has_stand_ins=True,
            name=self.name,
        )
        other.draws = self.draws
        return other

    def pulled(self, z: Tensor, dual: Tensor, create_graph: bool = True) -> tuple[Tensor | None, ...]:
        """J'dual for a loss or outputs z, by leaf; None for one that z does not depend on.

        Raises:
            ShapeError: z depends on a parameter that has a stand-in.
        """
        originals = self.params if self.has_stand_ins else []
        inputs, num_calls = [*self.leaves, *originals], self.precise.num_calls
        found = differentiated([z], inputs, [dual], create_graph=create_graph, keep_graph=create_graph)
        self.has_python_backward |= self.precise.num_calls > num_calls
        if any(part is not None for part in found[len(self.leaves) :]):
            raise self.reached_directly()
        return found[: len(self.leaves)]

    def unreached(self) -> ShapeError:
        """What to say to a loss of other parameters."""
        return ShapeError(
            f"{self.name}: the loss must depend on the parameters measured; it depends on none of them. Was the "
            "model copied or replaced after the optimizer was made?"
        )

    def reached_directly(self) -> ShapeError:
        """What to say to a loss that does not see the stand-ins."""
        return ShapeError(
            f"{self.name}: loss_fn must reach the weights through the model it is given; it uses a parameter "
            "directly. Write loss_fn(model, batch) in terms of its argument `model`."
        )

    def scalar(self, loss: Any, source: str = "loss_fn") -> Tensor:
        """The loss, if it is a real scalar that can be differentiated; NaN to every derivative if it is not finite.

        A loss that overflowed can have derivatives that did not, which are those of no loss.
        """
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
            kind = f"shape {tuple(loss.shape)}, {loss.dtype}" if isinstance(loss, Tensor) else type(loss).__name__
            advice = "Average it: loss.mean()." if isinstance(loss, Tensor) else "Return the loss alone, as a tensor."
            raise ShapeError(f"{self.name}: {source} must return a scalar; got {kind}. {advice}")
        if not loss.requires_grad:
            raise ShapeError(
                f"{self.name}: the loss must depend on a trainable parameter; got one that depends on none. "
                "Is it detached, or computed under torch.no_grad() or inference_mode()?"
            )
        loss = loss.reshape(())
        return loss if math.isfinite(loss.detach()) else torch.mul(loss.square(), math.nan)

    def zeros(self) -> Tensor:
        """(p,) of the operator's type, where the parameters are."""
        return torch.zeros(self.layout.size, dtype=self.dtype, device=self.device)

    def _check_params(self) -> None:
        if not self.params:
            raise ShapeError(f"{self.name}: the model must have a parameter that requires a gradient; got none.")
        if len({id(w) for w in self.params}) < len(self.params):
            raise ShapeError(f"{self.name}: each parameter must be given once; got one twice. Is a weight tied?")
        for w in self.params:
            if not w.requires_grad or w.is_inference():
                kind = "an inference tensor" if w.is_inference() else "one with requires_grad=False"
                raise ShapeError(
                    f"{self.name}: every parameter measured must require a gradient; got {kind} of shape "
                    f"{tuple(w.shape)}. Leave it out of `params`, or build the model outside inference_mode()."
                )

    def _scope(self) -> str:
        words = [f"in {str(self.dtype).removeprefix('torch.')}"] if self.is_raised else []
        whole = sum(w.numel() for w in trainable(self.model).values())
        if self.layout.size < whole:
            words.append(
                f"block of {self.layout.size} of {whole} parameters, whose largest eigenvalue is a lower bound "
                "of the whole's"
            )
        return "".join(f"; {each}" for each in words)

    def _elsewhere(self, piece: Any) -> list[str]:
        """Other devices that the batch has tensors on."""
        return sorted({str(x.device) for x in tensors(piece) if x.device != self.device})

    def _misplaced(self, elsewhere: list[str]) -> ShapeError:
        return ShapeError(
            f"{self.name}: the batch must be where the model is, on {self.device}; got tensors on "
            f"{', '.join(elsewhere)}. Move it: x.to({str(self.device)!r})."
        )
