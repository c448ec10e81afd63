"""Small models of every kind with a loss in two parts, and dense matrices of each built one coordinate at a time.

The oracles share nothing with the library: plain `torch.func.functional_call`, `torch.autograd.grad`, loops.
"""

from __future__ import annotations

from collections import namedtuple

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

Case = namedtuple("Case", "model forward criterion batch")


class GRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


class Attention(nn.Module):
    """One pre-norm transformer block on default attention; rows 4 and 5 of the embedding are never used."""

    def __init__(self, d=4, num_heads=2):
        super().__init__()
        self.num_heads, self.embed = num_heads, nn.Embedding(6, d)
        self.norm, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.project = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp, self.head = nn.Sequential(nn.Linear(d, 5), nn.GELU(), nn.Linear(5, d)), nn.Linear(d, 3)

    def forward(self, tokens):
        x = self.embed(tokens)
        heads = self.qkv(self.norm(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.project(scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(-2))
        return self.head((x + self.mlp(self.norm2(x))).mean(1))


class Autoencoder(nn.Module):
    """The decoder's weight is the encoder's, transposed."""

    def __init__(self):
        super().__init__()
        self.encode, self.bias = nn.Linear(3, 2), nn.Parameter(torch.randn(3))

    def forward(self, x):
        return torch.tanh(self.encode(x)) @ self.encode.weight + self.bias


class LowRank(nn.Module):
    """A frozen layer with a trained low-rank update, and a frozen head."""

    def __init__(self):
        super().__init__()
        self.base, self.head = nn.Linear(3, 4), nn.Linear(4, 3)
        self.down, self.up = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(4, 2))
        self.base.requires_grad_(False)
        self.head.requires_grad_(False)

    def forward(self, x):
        return self.head(torch.tanh(self.base(x) + x @ self.down.T @ self.up.T))


def batch_norm():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))
    model[1].running_mean.normal_()
    return model


MODELS = {
    "MLP": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), lambda: torch.randn(6, 3)),
    "CNN": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.Softplus(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 3)),
        lambda: torch.randn(6, 1, 3, 3),
    ),
    "BatchNorm": (batch_norm, lambda: torch.randn(6, 3)),
    "transformer": (Attention, lambda: torch.randint(4, (6, 3))),
    "GRU": (GRU, lambda: torch.randn(6, 3, 2)),
    "autoencoder": (Autoencoder, lambda: torch.randn(6, 3)),
    "low-rank update": (LowRank, lambda: torch.randn(6, 3)),
}


def forward(model, batch):
    return model(batch[0])


def mean_squares(z, batch):
    return (z - batch[1]).square().sum(1).mean() / 2


def sum_of_squares(z, batch):
    return (z - batch[1]).square().sum() / 2


def classes(z, batch):
    return cross_entropy(z, batch[1].argmax(1))


def bent(z, batch):
    """Not convex in the outputs."""
    return torch.sin(z - batch[1]).mean()


CRITERIA = {"mean of squares": mean_squares, "sum of squares": sum_of_squares, "cross-entropy": classes, "bent": bent}


def case(model, criterion):
    make, inputs = MODELS[model]
    return Case(make(), forward, CRITERIA[criterion], (inputs(), torch.randn(6, 3)))


def loss_of(case):
    """The loss as one function of model and batch."""
    return lambda model, batch: case.criterion(case.forward(model, batch), batch)


def trained(case):
    return {name: w for name, w in case.model.named_parameters() if w.requires_grad}


def weights(case):
    return torch.cat([w.detach().reshape(-1) for w in trained(case).values()])


def outputs_at(case, w):
    """z as a function of the flat vector, with the draws of seed 1 and copies of the buffers."""
    named = trained(case)
    parts = w.split([x.numel() for x in named.values()])
    values = {name: part.view(x.shape) for (name, x), part in zip(named.items(), parts, strict=True)}
    values |= {name: buffer.clone() for name, buffer in case.model.named_buffers()}
    torch.manual_seed(1)
    with sdpa_kernel(SDPBackend.MATH):
        return case.forward(lambda x: functional_call(case.model, values, (x,)), case.batch)


def rows_of(z, w):
    """The derivative of every element of z in w, one backward pass each, with a graph."""
    grads = [torch.autograd.grad(each, w, create_graph=True, allow_unused=True)[0] for each in z.reshape(-1)]
    return torch.stack([torch.zeros_like(w) if g is None else g for g in grads])


def dense_hessian(case):
    w = weights(case).requires_grad_()
    g = torch.autograd.grad(case.criterion(outputs_at(case, w), case.batch), w, create_graph=True)[0]
    return rows_of(g, w).detach()


def dense_jacobian(case):
    """(elements of z, p)."""
    w = weights(case).requires_grad_()
    return rows_of(outputs_at(case, w), w).detach()


def dense_gauss_newton(case):
    z = outputs_at(case, weights(case)).detach().requires_grad_()
    g = torch.autograd.grad(case.criterion(z, case.batch), z, create_graph=True)[0]
    J = dense_jacobian(case)
    return J.T @ rows_of(g, z).reshape(z.numel(), z.numel()).detach() @ J
