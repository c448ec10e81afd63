"""What trainers leave behind, and what a watcher stored of them, as values to compare."""

from __future__ import annotations

import random

import numpy as np
import torch

from tightrope.store import read_events


def events(watcher, kind):
    return [event for event in read_events(watcher.run_dir) if event["type"] == kind]


def state_of(model, optimizer):
    """Weights, buffers and optimizer state, and where every global generator stands."""
    tensors = {f"w {name}": w.detach().clone() for name, w in model.state_dict().items()}
    for i, state in optimizer.state_dict()["state"].items():
        tensors |= {f"state {i} {name}": torch.as_tensor(value).clone() for name, value in state.items()}
    numpy = torch.as_tensor(np.random.get_state()[1].astype(np.int64))
    drawn = torch.tensor(hash(random.getstate()))
    return tensors | {"random": torch.get_rng_state(), "numpy": numpy, "python": drawn}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def num_hooks(model):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())
