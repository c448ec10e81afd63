"""Training loops of other people, small, each with a place for a watcher, and all they leave behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import nn


def half_square(model, batch):
    x, y = batch
    return (model(x) - y).square().sum() / (2 * len(x))


def cross_entropy(model, batch):
    x, y = batch
    return nn.functional.cross_entropy(model(x), y)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def batches(num, size=32, seed=1, classes=3) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num):
        yield (
            torch.randn(size, 6, generator=generator),
            torch.randint(classes, (size,), generator=generator),
        )


class Everything(nn.Module):
    """Dropout, BatchNorm and a counter that the forward pass moves."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(6, 16), nn.BatchNorm1d(16)
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(16, 3)
        self.register_buffer("num_calls", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        if self.training:
            self.num_calls += 1
        return self.last(self.drop(torch.relu(self.norm(self.first(x)))))


def plain_loop(watch, num_steps=40):
    """One batch a step, AdamW."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    with watch(model, optimizer, cross_entropy) as watcher:
        for batch in batches(num_steps):
            optimizer.zero_grad()
            loss = cross_entropy(model, batch)
            loss.backward()
            optimizer.step()
            watcher.step(batch, loss)
            losses.append(loss.item())
    return model, optimizer, losses


def busy_loop(watch, num_steps=24):
    """Dropout, BatchNorm, accumulation over micro-batches, clipping, OneCycle, two groups."""
    torch.manual_seed(3)
    model = Everything()
    groups = [{"params": model.first.parameters(), "lr": 2e-2}, {"params": model.last.parameters()}]
    groups.append({"params": model.norm.parameters(), "weight_decay": 0.1})
    optimizer = torch.optim.SGD(groups, lr=1e-2, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[0.1, 0.05, 0.05], total_steps=num_steps)
    losses, stream = [], batches(2 * num_steps)
    with watch(model, optimizer, cross_entropy, clip_norm=0.5) as watcher:
        for _ in range(num_steps):
            optimizer.zero_grad()
            parts = [next(stream), next(stream)]
            total = 0.0
            for part in parts:
                loss = cross_entropy(model, part) / 2
                loss.backward()
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            schedule.step()
            watcher.step(parts, total)
            losses.append(total)
    return model, optimizer, losses


class Unwatched(nullcontext):
    """What takes a watcher's place in a loop without one."""

    def __init__(self, *unused, **settings):
        super().__init__(self)

    def step(self, *unused):
        pass


def state_of(model, optimizer, losses):
    """Everything a loop leaves behind, random states included, as values to compare."""
    tensors = {f"w {name}": w.detach().clone() for name, w in model.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"state {i} {name}": torch.as_tensor(value).clone() for name, value in state.items()}
    tensors |= {f"grad {name}": w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}
    return tensors | {"random": torch.get_rng_state(), "losses": torch.tensor(losses, dtype=torch.float64)}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
