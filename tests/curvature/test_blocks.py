"""Curvature of layers and parameter groups against the blocks of the dense matrix."""

import pytest
import torch
from torch import nn

from tests.reference.matrices import randn, symmetric
from tightrope.curvature import (
    Block,
    Dense,
    Hessian,
    MicroBatches,
    Scaled,
    Shifted,
    block_eigenvalues,
    group_blocks,
    layer_blocks,
    products,
    top_eigenvalues,
)
from tightrope.curvature.objective import differentiated
from tightrope.errors import ShapeError
from tightrope.parameters import Layout

P = 70
HALF = torch.logspace(-2, 1, P, dtype=torch.float64)
WHERE = {
    "a layer": slice(42, 66),
    "two layers": slice(0, 66),
    "part of a layer": slice(10, 20),
    "across layers": slice(30, 68),
    "everything": slice(None),
    "the end": slice(69, None),
    "scattered": torch.tensor([69, 3, 41, 42, 5]),
    "one": torch.tensor([44]),
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 1)).double()


def loss(model, x):
    return model(x).square().mean()


@pytest.fixture(scope="module")
def hessian(model):
    return Hessian(model, loss, randn(20, 5))


def dense(operator):
    return operator @ torch.eye(operator.size, dtype=operator.dtype)


def operators(hessian):
    full = torch.linalg.qr(randn(P, P)).R
    return {
        "Hessian": hessian,
        "scaled": Scaled(hessian, HALF),
        "scaled, a number added": Scaled(hessian, HALF, 0.3),
        "scaled, a diagonal added": Scaled(hessian, HALF, HALF),
        "scaled by a matrix": Scaled(hessian, full),
        "shifted": Shifted(hessian, 2.0),
        "dense": Dense(symmetric(torch.linspace(-1, 1, P))),
    }


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("name", operators(Dense(torch.eye(P).double())))
def test_a_block_is_the_block_of_the_matrix(name, where, hessian):
    operator, index = operators(hessian)[name], WHERE[where]
    block, expected = Block(operator, index), dense(operator)[index][:, index]
    assert block.size == len(expected)
    torch.testing.assert_close(dense(block), expected, rtol=1e-12, atol=1e-14)


def test_a_block_of_several_batches_is_that_of_their_sum(model):
    batches = MicroBatches([randn(20, 5), randn(10, 5, seed=1)])
    hessian = Hessian(model, loss, batches)
    torch.testing.assert_close(dense(Block(hessian, slice(42, 66))), dense(hessian)[42:66, 42:66])


def test_a_block_of_a_parameter_that_is_not_curved_is_zero():
    model = nn.Linear(3, 2).double()
    hessian = Hessian(model, lambda model, x: model(x).sum() + model.weight.square().sum(), randn(4, 3))
    assert torch.equal(dense(Block(hessian, slice(6, 8))), torch.zeros(2, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("where", "sizes"), [(slice(66, P), [3, 1]), (slice(42, 64), [21, 3]), (torch.tensor([69, 36]), [7, 1])]
)
def test_a_block_goes_backward_to_no_more_parameters_than_hold_it(where, sizes, hessian, monkeypatch):
    asked = []

    def watched(outputs, inputs, *args, **kwargs):
        asked.append([x.numel() for x in inputs])
        return differentiated(outputs, inputs, *args, **kwargs)

    monkeypatch.setattr(products, "differentiated", watched)
    block = Block(Scaled(hessian, HALF), where)
    block @ torch.ones(block.size, dtype=torch.float64)
    assert asked == [sizes]


def test_a_block_says_what_it_is(hessian):
    block = Block(Scaled(hessian, HALF), slice(0, 42))
    assert block.route == (
        "kept graph; block of 42 of 70 coordinates, whose largest eigenvalue is a lower bound of the whole's"
    )
    assert block.cost == 1


def test_the_eigenvalues_of_blocks_are_those_of_the_dense_blocks_and_below_the_whole(hessian, model):
    scaled = Scaled(hessian, HALF)
    A, blocks = dense(scaled), layer_blocks(model)
    found = block_eigenvalues(scaled, blocks, 2, rtol=1e-8)
    assert list(found) == ["0", "2", "4"]
    whole = torch.linalg.eigvalsh(A).flip(0)
    for name, where in blocks.items():
        truth = torch.linalg.eigvalsh(A[where, where]).flip(0)[:2]
        assert torch.allclose(found[name].values, truth, rtol=1e-6, atol=1e-9)
        assert (truth <= whole[:2] + 1e-12).all()


def test_a_block_of_fewer_coordinates_gives_all_it_has():
    found = block_eigenvalues(Dense(symmetric(torch.linspace(-1, 1, 20))), {"a": slice(0, 2), "b": slice(2, 20)}, k=3)
    assert [len(result.values) for result in found.values()] == [2, 3]


def test_former_vectors_of_a_block_save_products():
    A = Dense(symmetric(torch.logspace(-3, 1, 200)))
    blocks = {"a": slice(0, 100), "b": slice(100, 200)}
    cold = block_eigenvalues(A, blocks)
    warm = block_eigenvalues(A, blocks, start={"a": cold["a"].warm_start}, seed=1)
    assert warm["a"].num_products < cold["a"].num_products
    assert warm["a"].upper_kind == "residual"
    assert warm["b"].upper_kind == "probabilistic"


def test_the_options_reach_every_solve():
    A = Dense(symmetric(torch.linspace(0, 1, 100)))
    blocks = {"a": slice(0, 50), "b": torch.arange(50, 100)}
    for name, result in block_eigenvalues(A, blocks, 2, rtol=1e-5, max_products=33, max_basis=9, seed=4).items():
        alone = top_eigenvalues(Block(A, blocks[name]), 2, rtol=1e-5, max_products=33, max_basis=9, seed=4)
        assert torch.equal(result.vectors, alone.vectors)
        assert (result.num_products, result.status) == (alone.num_products, alone.status)


# Where layers and groups lie


def test_layers_are_the_modules_that_hold_the_parameters(model):
    assert layer_blocks(model) == {"0": slice(0, 42), "2": slice(42, 66), "4": slice(66, 70)}
    assert layer_blocks(Layout.of(model.named_parameters())) == layer_blocks(model)
    assert layer_blocks(dict(model.named_parameters())) == layer_blocks(model)


def test_a_parameter_that_no_module_below_holds_stands_alone():
    assert layer_blocks(nn.Linear(2, 3)) == {"weight": slice(0, 6), "bias": slice(6, 9)}


def test_frozen_parameters_and_tied_ones_are_where_the_flat_vector_has_them():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    model[2].weight = model[0].weight
    model[1].weight.requires_grad_(False)
    assert layer_blocks(model) == {"0": slice(0, 6), "1": slice(6, 8)}


def test_a_layer_whose_parameters_are_apart_has_indices():
    named = {"a.x": torch.zeros(2), "b.x": torch.zeros(1), "a.y": torch.zeros(2)}
    blocks = layer_blocks(named)
    assert torch.equal(blocks["a"], torch.tensor([0, 1, 3, 4]))
    assert blocks["b"] == slice(2, 3)


def test_groups_are_those_of_the_optimizer(model, hessian):
    weights = [w for w in model.parameters() if w.ndim == 2]
    biases = [w for w in model.parameters() if w.ndim == 1]
    elsewhere = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD([{"params": weights}, {"params": [elsewhere]}, {"params": biases}], lr=0.1)
    blocks = group_blocks(optimizer, model)
    assert list(blocks) == ["group 0", "group 2"]
    flat = torch.cat([w.detach().reshape(-1) for w in model.parameters()])
    assert torch.equal(flat[blocks["group 2"]], torch.cat(biases).detach())
    assert torch.equal(flat[blocks["group 0"]], torch.cat([w.detach().reshape(-1) for w in weights]))
    found = block_eigenvalues(hessian, blocks, rtol=1e-8)
    for name, where in blocks.items():
        truth = torch.linalg.eigvalsh(dense(hessian)[where][:, where])[-1]
        assert float(found[name].values) == pytest.approx(float(truth), rel=1e-6)


def test_parameters_in_no_group_are_in_no_block(model):
    params = list(model.parameters())
    optimizer = torch.optim.SGD(params[4:], lr=0.1)
    assert group_blocks(optimizer, model) == {"group 0": slice(66, 70)}
    assert group_blocks(optimizer, params[2:]) == {"group 0": slice(24, 28)}


@pytest.mark.parametrize(
    ("where", "got"),
    [
        (slice(3, 3), r"slice\(3, 3"),
        (slice(5, 3), r"slice\(5, 3"),
        (slice(0, 21), r"slice\(0, 21"),
        (slice(-3, None), r"slice\(-3, None"),
        (slice(0, 10, 2), r"slice\(0, 10, 2\)"),
        (torch.tensor([], dtype=torch.int64), r"torch.int64 \(0,\)"),
        (torch.tensor([1, 20]), r"2 in 1\.\.20, 2 different"),
        (torch.tensor([-1, 2]), r"2 in -1\.\.2, 2 different"),
        (torch.tensor([1, 2, 1]), r"3 in 1\.\.2, 2 different"),
        (torch.ones(20, dtype=torch.bool), r"torch.bool \(20,\)"),
        ([1, 2], r"\[1, 2\]"),
    ],
)
def test_coordinates_that_are_none_are_refused(where, got):
    message = rf"must be at least one of 0\.\.19, each once; got {got}"
    with pytest.raises(ShapeError, match="Block: the coordinates " + message):
        Block(Dense(torch.eye(20)), where)
    with pytest.raises(ShapeError, match="block_eigenvalues: block 'x': the coordinates " + message):
        block_eigenvalues(Dense(torch.eye(20)), {"x": where})


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({}, "must name at least one; got none"),
        ({"a": slice(0, 5), "b": slice(4, 9)}, "must not overlap; got 'b' and 'a' with a coordinate in common"),
        ({"a": slice(0, 5), "b": torch.tensor([9, 2])}, "must not overlap; got 'b' and 'a'"),
    ],
)
def test_blocks_that_are_none_or_overlap_are_refused(blocks, message):
    with pytest.raises(ShapeError, match=message):
        block_eigenvalues(Dense(torch.eye(20)), blocks)
