"""A running optimizer whose second moment is held, the plain way: put everything but the momenta back, step, repeat.

Gradients are too small to move the second moment, so one step moves it by its own fading only. What a step without
gradients changes is added beforehand, which leaves the square of that fading: far below the 1 % the edge is asked to.
"""

import copy

import torch

SHAPES = ((4, 3), (5,))
SIZE = 17


def parameters(dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    return [torch.nn.Parameter((scale * w).to(dtype)) for w in drawn]


def fill(ws, vector):
    for w, part in zip(ws, vector.split([w.numel() for w in ws]), strict=True):
        w.grad = part.view_as(w).to(w.dtype).clone()


def put(ws, vector):
    for w, part in zip(ws, vector.split([w.numel() for w in ws]), strict=True):
        w.data.copy_(part.view_as(w))


def flat(ws):
    return torch.cat([w.detach().reshape(-1) for w in ws]).double()


def warmed(optimizer, ws, num_steps=60):
    """The optimizer after steps on seeded gradients whose sizes span three decades."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.logspace(-2, 1, SIZE, dtype=torch.float64)
    for _ in range(num_steps):
        fill(ws, sizes * torch.randn(SIZE, generator=generator, dtype=torch.float64))
        optimizer.step()
    return optimizer


def growth(optimizer, ws, frozen, momenta, ratio, num_steps=4000):
    """Growth of the weights on a quadratic whose lambda_1(D^1/2 (H + shift) D^1/2) is `ratio`; stops at 1e4 or 1e-2."""
    generator = torch.Generator().manual_seed(3)
    root = frozen.half_scaling().double()
    size = len(root)
    axis = torch.nn.functional.normalize(torch.randn(size, generator=generator, dtype=torch.float64), dim=0)
    values = torch.linspace(0.5, 1, size, dtype=torch.float64)[torch.randperm(size, generator=generator)] * ratio

    def scaled(w):
        return torch.where(root > 0, w / root, torch.zeros_like(w))

    def reflected(y):
        return y - 2 * axis * (axis @ y)

    def gradient(w):
        """H w with H = D^-1/2 Q diag(values) Q D^-1/2 - shift and the reflection Q, which mixes all elements."""
        return scaled(reflected(values * reflected(scaled(w)))) - frozen.shift * w

    start = 1e-60 * root * torch.randn(size, generator=generator, dtype=torch.float64)
    _widen(optimizer, ws)
    kept = _kept(optimizer, ws, momenta)
    put(ws, start)
    grown = 1.0
    for _ in range(num_steps):
        _put_back(optimizer, kept, momenta)
        fill(ws, gradient(flat(ws)))
        optimizer.step()
        grown = (scaled(flat(ws)).norm() / scaled(start).norm()).item()
        if not 1e-2 < grown < 1e4:
            break
    return grown


def _widen(optimizer, ws):
    """Everything in double precision, so that gradients can be smaller than any second moment."""
    for w in ws:
        w.data, w.grad = w.data.double(), None
    for state in optimizer.state.values():
        for name, value in state.items():
            if torch.is_tensor(value) and value.is_floating_point():
                state[name] = value.double()


def _kept(optimizer, ws, momenta):
    """The state to step from, without momenta: a step without gradients leaves what the optimizer holds now."""
    now = copy.deepcopy(optimizer.state_dict())["state"]
    kept = copy.deepcopy(optimizer.state_dict())
    for _ in range(6):
        _put_back(optimizer, kept, momenta)
        _forget(optimizer, momenta)
        fill(ws, torch.zeros_like(flat(ws)))
        put(ws, flat(ws) * 0)
        optimizer.step()
        for i, after in enumerate(optimizer.state.values()):
            for name, value in now[i].items():
                if name != "step" and name not in momenta and (isinstance(value, float) or torch.is_tensor(value)):
                    before = kept["state"][i][name] + (value - after[name])
                    is_square = torch.is_tensor(value) and bool((value >= 0).all())
                    kept["state"][i][name] = before.clamp(min=0) if is_square else before
    _forget(optimizer, momenta)
    return kept


def _forget(optimizer, momenta):
    for state in optimizer.state.values():
        for name in momenta & state.keys():
            state[name].zero_()


def _put_back(optimizer, kept, momenta):
    """Everything but the momenta as it was; the count of steps one less, as before the step it was left by."""
    for group, was in zip(optimizer.param_groups, kept["param_groups"], strict=True):
        group.update({name: value for name, value in was.items() if name != "params"})
        if "step" in group:
            group["step"] = was["step"] - 1
    for i, state in enumerate(optimizer.state.values()):
        for name, value in kept["state"][i].items():
            if name == "step":
                state[name] = copy.deepcopy(value) - 1
            elif name not in momenta:
                state[name] = copy.deepcopy(value)
