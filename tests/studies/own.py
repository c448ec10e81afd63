"""Optimizers as users write them: good ones, and each of the others with one thing wrong."""

from __future__ import annotations

import multiprocessing
import sys
from collections import deque

import torch


class HandAdam(torch.optim.Optimizer):
    """Adam from its paper; it counts its steps in its groups."""

    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "count": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            group["count"] += 1
            for w in group["params"]:
                state = self.state[w]
                if not state:
                    state["moments"] = {"m": torch.zeros_like(w), "v": torch.zeros_like(w)}
                m, v = state["moments"]["m"], state["moments"]["v"]
                m.mul_(beta1).add_(w.grad, alpha=1 - beta1)
                v.mul_(beta2).addcmul_(w.grad, w.grad, value=1 - beta2)
                root = (v / (1 - beta2 ** group["count"])).sqrt() + group["eps"]
                w.addcdiv_(m, root, value=-group["lr"] / (1 - beta1 ** group["count"]))


class Plain(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        with torch.no_grad():
            for group in self.param_groups:
                for w in group["params"]:
                    self.move(w, group["lr"])

    def move(self, w, lr):
        w.add_(w.grad, alpha=-lr)


class SignDescent(Plain):
    def move(self, w, lr):
        w.add_(w.grad.sign(), alpha=-lr)


class Queue(Plain):
    """Its state is a deque."""

    def move(self, w, lr):
        self.state[w].setdefault("queue", deque(maxlen=3)).append(w.grad.clone())
        w.add_(w.grad, alpha=-lr)


class Sharing(Plain):
    """Its state is the parameter itself."""

    def move(self, w, lr):
        self.state[w]["same"] = w.data
        w.add_(w.grad, alpha=-lr)


class Narrow(Plain):
    """It does not know float64."""

    def move(self, w, lr):
        w.data = w.data.float() - lr * w.grad.float()


class Rounding(Plain):
    """It puts float32 numbers into whatever parameter."""

    def move(self, w, lr):
        w.copy_((w.float() - lr * w.grad.float()).to(w.dtype))


class NarrowState(Plain):
    """It keeps its average of gradients in float32."""

    def move(self, w, lr):
        m = self.state[w].setdefault("m", torch.zeros_like(w, dtype=torch.float32))
        m.mul_(0.5).add_(w.grad.float())
        w.add_(m.double().to(w.dtype), alpha=-lr)


class Lazy(Plain):
    """It takes every second step only."""

    def move(self, w, lr):
        state = self.state[w]
        state["count"] = state.get("count", 0) + 1
        if state["count"] % 2 == 0:
            w.add_(w.grad, alpha=-lr)


class Forgetful(Plain):
    """Its steps shrink by a count that is in no state."""

    count = 0

    def move(self, w, lr):
        self.count += 1
        w.add_(w.grad, alpha=-lr / (1 + 0.01 * self.count))


class WholeNumbers(Plain):
    """Its state holds a whole number as a tensor, which torch casts to the parameter's dtype when it loads."""

    def move(self, w, lr):
        state = self.state[w]
        state.setdefault("seen", torch.zeros((), dtype=torch.int64)).add_(1)
        w.add_(w.grad, alpha=-lr * (0.5 if int(state["seen"]) & 1 else 1.5))


class Steep(Plain):
    """Its steps grow with the fourth power of its rate; it trains in a fourth of the decades."""

    def move(self, w, lr):
        w.add_(w.grad, alpha=-((10 * lr) ** 4))


class Closed(Plain):
    """It needs a closure."""

    def step(self, closure):
        closure()


class Leaving(Plain):
    """It leaves in its second step."""

    def step(self, closure=None):
        if self.state:
            sys.exit(7)
        super().step()
        self.state[self.param_groups[0]["params"][0]]["seen"] = True


class LeavesLate(Plain):
    """It leaves in its hundred and first step."""

    def move(self, w, lr):
        state = self.state[w]
        state["count"] = state.get("count", 0) + 1
        if state["count"] > 100:
            sys.exit(7)
        w.add_(w.grad, alpha=-lr)


class LeavesInWorkers(Plain):
    """It leaves where it is one of several processes."""

    def move(self, w, lr):
        if multiprocessing.parent_process() is not None and self.state[w].setdefault("seen", False):
            sys.exit(9)
        self.state[w]["seen"] = True
        w.add_(w.grad, alpha=-lr)


class Interrupting(LeavesLate):
    """It is interrupted in its sixth step."""

    def move(self, w, lr):
        super().move(w, lr)
        if self.state[w]["count"] > 5:
            raise KeyboardInterrupt


def leaving_at_once(params, lr):
    sys.exit(8)


def interrupting(params, lr):
    raise KeyboardInterrupt


def heavy_ball(params, lr, beta=0.9, nesterov=False):
    print("making heavy ball")
    return torch.optim.SGD(params, lr=lr, momentum=beta, nesterov=nesterov)


def two_rates(params, lr):
    return torch.optim.SGD([{"params": params[:1]}, {"params": params[1:], "lr": lr / 4}], lr=lr)


class Cooling(Plain):
    """It lowers its own learning rate."""

    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            group["lr"] *= 0.9


def no_optimizer(params, lr):
    return "none"


SOMETHING = 3
