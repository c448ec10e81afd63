"""Named parameters and the flat vector are two views of the same numbers."""

import pytest
import torch
from torch import nn

from tightrope.errors import ShapeError
from tightrope.parameters import Layout, flatten, share_storage, trainable, weights_at, write


class Net(nn.Module):
    """Tied, frozen, scalar and non-contiguous parameters."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.randn(2), requires_grad=False)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.turned = nn.Parameter(torch.randn(2, 3).T)

    def forward(self, x):
        return self.scale * self.second(torch.tanh(self.first(x))) @ self.turned + self.frozen


NAMES = ["scale", "turned", "first.weight", "first.bias", "second.bias"]
SHAPES = [(), (3, 2), (3, 3), (3,), (3,)]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net().double()


def bits(tensors):
    return [tensor.detach().contiguous().numpy().tobytes() for tensor in tensors]


def test_trainable_names_each_tied_parameter_once_and_no_frozen_one(model):
    named = trainable(model)
    assert list(named) == NAMES
    assert all(named[name] is model.get_parameter(name) for name in NAMES)


def test_layout_says_where_each_parameter_lies(model):
    layout = Layout.of(trainable(model).items())
    assert layout.names == tuple(NAMES)
    assert layout.shapes == tuple(map(torch.Size, SHAPES))
    assert layout.sizes == [1, 6, 9, 3, 3]
    assert layout.size == 22


def test_layout_of_nothing_is_empty():
    layout = Layout.of([])
    assert layout.size == 0
    assert layout.split(torch.zeros(0)) == []


def test_split_undoes_flatten(model):
    parameters = list(trainable(model).values())
    parts = Layout.of(trainable(model).items()).split(flatten(parameters))
    assert [part.shape for part in parts] == [w.shape for w in parameters]
    assert all(torch.equal(part, w) for part, w in zip(parts, parameters, strict=True))


def test_flatten_undoes_split(model):
    v = torch.randn(22)
    assert torch.equal(flatten(Layout.of(trainable(model).items()).split(v)), v)


def test_split_gives_views(model):
    v = torch.zeros(22)
    for part in Layout.of(trainable(model).items()).split(v):
        part += 1
    assert torch.equal(v, torch.ones(22))


def test_split_takes_a_column_of_a_block(model):
    V = torch.randn(22, 4)
    parts = Layout.of(trainable(model).items()).split(V[:, 2])
    assert torch.equal(flatten(parts), V[:, 2])


@pytest.mark.parametrize("shape", [(21,), (23,), (22, 1), ()])
def test_split_refuses_another_shape(model, shape):
    with pytest.raises(ShapeError, match=r"Layout: the vector must be \(22,\); got "):
        Layout.of(trainable(model).items()).split(torch.zeros(shape))


def test_flatten_is_a_new_vector_in_row_major_order():
    A = torch.arange(6.0).view(2, 3)
    v = flatten([A.T, torch.tensor(9.0)])
    assert v.tolist() == [0, 3, 1, 4, 2, 5, 9]
    assert flatten([A]).data_ptr() != A.data_ptr()


def test_write_puts_the_vector_in_place(model):
    parameters = list(trainable(model).values())
    places = [(id(w), w.data_ptr(), w.stride(), w.requires_grad) for w in parameters]
    w = torch.randn(22).double()
    write(parameters, w)
    assert torch.equal(flatten(parameters), w)
    assert [(id(w), w.data_ptr(), w.stride(), w.requires_grad) for w in parameters] == places


@pytest.mark.parametrize("size", [3, 23])
def test_write_refuses_another_length_and_writes_nothing(model, size):
    parameters = list(trainable(model).values())
    before = bits(parameters)
    with pytest.raises(ShapeError, match=rf"22.*got .*{size}"):
        write(parameters, torch.zeros(size).double())
    assert bits(parameters) == before


# weights_at


def test_weights_at_holds_the_weights_inside_the_block_only(model):
    parameters = list(trainable(model).values())
    w = torch.randn(22).double()
    before = bits(model.parameters())
    with weights_at(parameters, w):
        assert torch.equal(flatten(parameters), w)
        assert bits([model.frozen]) == before[:1]
    assert bits(model.parameters()) == before


def test_weights_at_restores_every_bit(model):
    parameters = list(trainable(model).values())
    special = torch.tensor([-0.0, 0.0, float("nan"), float("inf"), 5e-324, -float("nan")]).double()
    parameters[1].data = special.view(3, 2)
    before = bits(parameters)
    with weights_at(parameters, torch.ones(22).double()):
        pass
    assert bits(parameters) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_weights_at_restores_every_bit_when_the_block_raises(model, error):
    parameters = list(trainable(model).values())
    before = bits(parameters)
    with pytest.raises(error), weights_at(parameters, torch.ones(22).double()):
        raise error
    assert bits(parameters) == before


def test_weights_at_none_touches_nothing(model):
    parameters = list(trainable(model).values())
    versions = [w._version for w in parameters]
    with weights_at(parameters, None):
        assert [w._version for w in parameters] == versions
    assert [w._version for w in parameters] == versions


def test_weights_at_takes_the_flat_vector_the_parameters_are_views_of(model):
    w = share_storage(model)
    before = w.detach().clone()
    with weights_at(list(trainable(model).values()), w.detach() + 1):
        assert torch.equal(w, before + 1)
    assert torch.equal(w, before)


# share_storage


def test_share_storage_makes_every_parameter_a_view_of_one_vector(model):
    before = flatten([w.detach() for w in trainable(model).values()])
    identities = [id(parameter) for parameter in model.parameters()]
    w = share_storage(model)
    assert w.is_leaf
    assert w.shape == (22,)
    assert torch.equal(w, before)
    assert [id(parameter) for parameter in model.parameters()] == identities
    with torch.no_grad():
        w.copy_(torch.arange(22.0))
    assert torch.equal(flatten(list(trainable(model).values())), torch.arange(22.0).double())
    assert model.scale == 0
    assert model.turned.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_share_storage_keeps_ties_and_leaves_frozen_parameters_out(model):
    frozen = model.frozen.data_ptr()
    w = share_storage(model)
    assert model.second.weight is model.first.weight
    assert model.frozen.data_ptr() == frozen
    with torch.no_grad():
        w.zero_()
    assert (model.second.weight == 0).all()
    assert (model.frozen != 0).all()


def test_share_storage_leaves_the_function_unchanged(model):
    x = torch.randn(5, 3).double()
    before = model(x)
    share_storage(model)
    assert torch.equal(model(x), before)


def test_backward_fills_the_one_flat_gradient(model):
    x = torch.randn(5, 3).double()
    expected = flatten(torch.autograd.grad(model(x).square().sum(), list(trainable(model).values())))
    w = share_storage(model)
    assert torch.equal(w.grad, torch.zeros(22).double())
    model(x).square().sum().backward()
    torch.testing.assert_close(w.grad, expected, rtol=1e-12, atol=1e-12)
    model(x).square().sum().backward()
    torch.testing.assert_close(w.grad, 2 * expected, rtol=1e-12, atol=1e-12)
    w.grad.zero_()
    assert all((parameter.grad == 0).all() for parameter in trainable(model).values())


def test_a_step_on_the_vector_is_a_step_on_every_parameter(model):
    apart = Net().double()
    apart.load_state_dict(model.state_dict())
    x = torch.randn(5, 3).double()
    w = share_storage(model)
    together, separate = torch.optim.Adam([w], lr=0.1), torch.optim.Adam(trainable(apart).values(), lr=0.1)
    for _ in range(3):
        for net, optimizer in ((model, together), (apart, separate)):
            optimizer.zero_grad(set_to_none=False)
            net(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(w.detach(), flatten([v.detach() for v in trainable(apart).values()]), rtol=1e-9, atol=0)


@pytest.mark.parametrize("model", [nn.Tanh(), nn.Linear(2, 2).requires_grad_(False)], ids=["none", "all frozen"])
def test_a_model_without_trainable_parameters_is_refused(model):
    with pytest.raises(ShapeError, match="must have a parameter that requires a gradient; got none"):
        share_storage(model)
