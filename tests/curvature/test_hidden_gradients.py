"""Reentrant checkpoints over an input that is a leaf: layers that a gradient asked for by inputs leaves out."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from tightrope.curvature import FiniteDifference, Hessian, gradient_norm, hessian, loss_change, repetition, self_check
from tightrope.errors import ShapeError
from tightrope.parameters import flatten, trainable


class Block(nn.Module):
    """A frozen layer with a trained low-rank update."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(4, 4).requires_grad_(False)
        self.down, self.up = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(4, 2))

    def forward(self, x):
        return x + torch.tanh(self.base(x) + x @ self.down.T @ self.up.T)


class Adapted(nn.Module):
    """A frozen embedding whose output is made to require a gradient, two adapted blocks, and a head."""

    def __init__(self, is_checkpointed, is_head_trained):
        super().__init__()
        self.embed, self.blocks = nn.Embedding(7, 4), nn.ModuleList([Block(), Block()])
        self.head, self.is_checkpointed = nn.Linear(4, 3).requires_grad_(is_head_trained), is_checkpointed
        self.embed.requires_grad_(False)
        self.embed.register_forward_hook(lambda module, inputs, output: output.requires_grad_(True))

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=True) if self.is_checkpointed else block(x)
        return self.head(x.mean(1))


def loss_fn(model, batch):
    return cross_entropy(model(batch[0]), batch[1])


def twins(is_head_trained):
    """A model and its checkpointed twin, and a batch."""
    torch.manual_seed(0)
    plain, checkpointed = (Adapted(each, is_head_trained).double() for each in (False, True))
    checkpointed.load_state_dict(plain.state_dict())
    return plain, checkpointed, (torch.randint(7, (6, 3)), torch.randint(3, (6,)))


@pytest.mark.parametrize(
    ("is_head_trained", "words"),
    [(True, "the gradient is not the one backward() finds"), (False, "Only backward() finds the gradient")],
)
def test_layers_behind_a_reentrant_checkpoint_are_measured(is_head_trained, words):
    plain, checkpointed, batch = twins(is_head_trained)
    expected = Hessian(plain, loss_fn, batch)
    identity = torch.eye(expected.size).double()
    for _ in range(2):
        H = hessian(checkpointed, loss_fn, batch)
        assert H.route.startswith("central difference")
        assert words in H.check.words
        assert not H.check.is_passed
        torch.testing.assert_close(H.gradient, expected.gradient, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(H @ identity, expected @ identity, rtol=0, atol=1e-8)
    assert all(w.grad is None for w in checkpointed.parameters())


def test_a_hessian_without_the_hidden_layers_fails_its_check():
    _, checkpointed, batch = twins(True)
    check = self_check(Hessian(checkpointed, loss_fn, batch))
    assert not check.is_passed
    assert check.words == "the gradient is not the one backward() finds"


def test_a_loss_of_other_parameters_behind_a_checkpoint_is_refused_as_such():
    _, checkpointed, batch = twins(True)
    with pytest.raises(ShapeError, match="it depends on none of them"):
        hessian(checkpointed, loss_fn, batch, params=[nn.Parameter(torch.ones(2).double())])


def test_gradients_and_hooks_of_leaves_outside_the_model_are_left_alone():
    _, checkpointed, (tokens, y) = twins(True)
    scale, seen = nn.Parameter(torch.tensor(2.0).double()), []
    bare = nn.Parameter(torch.tensor(3.0).double())
    scale.register_post_accumulate_grad_hook(lambda w: seen.append(w.grad.clone()))
    scale.register_hook(lambda g: seen.append(g))

    def scaled(model, batch):
        return scale * bare * loss_fn(model, batch)

    scaled(checkpointed, (tokens, y)).backward()
    bare.grad = None
    held = {w: w.grad.clone() for w in (scale, *trainable(checkpointed).values())}
    assert len(seen) == 2
    H = FiniteDifference(checkpointed, scaled, (tokens, y))
    torch.testing.assert_close(H.gradient, flatten([w.grad for w in trainable(checkpointed).values()]))
    assert (H @ torch.ones(H.size).double()).isfinite().all()
    assert bare.grad is None
    assert all(torch.equal(w.grad, g) for w, g in held.items())
    assert len(seen) == 2
    scaled(checkpointed, (tokens, y)).backward()
    assert len(seen) == 4


def test_the_gradient_of_a_batch_is_left_alone():
    class Checkpointed(nn.Linear):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=True)

    model, x = Checkpointed(3, 2), torch.randn(5, 3, requires_grad=True)
    (model(x) ** 2).mean().backward()
    before = x.grad.clone()
    H = hessian(model, lambda model, x: (model(x) ** 2).mean(), x)
    assert H.route.startswith("central difference")
    assert torch.equal(x.grad, before)
    assert math.isclose(
        float(H.gradient.norm()), float(flatten([w.grad for w in model.parameters()]).norm()), rel_tol=1e-6
    )


def test_a_sparse_gradient_behind_a_reentrant_checkpoint_is_made_dense():
    def loss_fn(model, batch):
        anchor = torch.ones((), requires_grad=True)
        return checkpoint(lambda anchor: model(batch) * anchor, anchor, use_reentrant=True).pow(3).sum()

    table, batch = nn.Embedding(7, 3, sparse=True).double(), torch.tensor([1, 1, 4])
    H = hessian(table, loss_fn, batch)
    expected = Hessian(table, lambda model, batch: model(batch).pow(3).sum(), batch)
    torch.testing.assert_close(H.gradient, expected.gradient)
    v = torch.ones(H.size).double()
    torch.testing.assert_close(H @ v, expected @ v)


def test_an_empty_batch_behind_a_reentrant_checkpoint_is_nan():
    _, checkpointed, batch = twins(False)
    H = hessian(checkpointed, loss_fn, tuple(x[:0] for x in batch))
    assert math.isnan(H.loss)
    assert H.gradient.isnan().all()
    assert (H @ torch.ones(H.size).double()).isnan().all()


@pytest.mark.parametrize("is_head_trained", [True, False])
def test_a_step_and_a_norm_are_those_of_the_model_without_checkpoints(is_head_trained):
    plain, checkpointed, batch = twins(is_head_trained)
    found = []
    for model in (plain, checkpointed):
        params = list(trainable(model).values())
        w = flatten([part.detach() for part in params])
        for part in params:
            part.data.mul_(1.01)
        loss, remainder, d = loss_change(model, loss_fn, batch, params, w)
        norm = gradient_norm(model, loss_fn, batch, params, w)
        found.append((loss, remainder, float(d.norm()), norm))
        assert all(part.grad is None for part in params)
    assert found[1] == pytest.approx(found[0], rel=1e-9)
    assert found[0][3] > 0


def test_a_loss_behind_a_reentrant_checkpoint_is_repeated_without_a_warning():
    """Without a gradient nothing that is checkpointed requires one; torch warns of it, and warnings are errors here."""
    first, second = nn.Linear(3, 4), nn.Linear(4, 2)
    model = nn.ModuleList([first, second])
    batch = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    found = repetition(model, lambda _, x: checkpoint(second, first(x), use_reentrant=True).square().mean(), batch)
    assert (found.spread, found.is_repeatable) == (0.0, True)
