"""A running optimizer whose second moment is held, the plain way: put everything but the momenta back, step, repeat.

Gradients are too small to move the second moment, so one step moves it by its own fading only: choose a decay close
to 1, and take enough steps before, so that this is far below the 1 % the edge is asked to.
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


def flat(ws):
    return torch.cat([w.detach().reshape(-1) for w in ws])


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
    basis = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)).Q
    S = basis @ torch.diag(torch.linspace(0.5, 1, SIZE, dtype=torch.float64) * ratio) @ basis.T
    root = frozen.half_scaling()
    H = S / root[:, None] / root - torch.diag(torch.ones(SIZE, dtype=torch.float64) * frozen.shift)
    kept = copy.deepcopy(optimizer.state_dict())
    start = 1e-15 * root * torch.randn(SIZE, generator=generator, dtype=torch.float64)
    fill(ws, start)
    for w in ws:
        w.data.copy_(w.grad)
    for state in optimizer.state.values():
        for name in momenta & state.keys():
            state[name].zero_()
    size = 1.0
    for _ in range(num_steps):
        _put_back(optimizer, kept, momenta)
        fill(ws, H @ flat(ws))
        optimizer.step()
        size = ((flat(ws) / root).norm() / (start / root).norm()).item()
        if not 1e-2 < size < 1e4:
            break
    return size


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
