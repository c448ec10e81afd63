"""Hessian products against a dense Hessian built independently, and against differences of gradients."""

from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from tightrope.curvature import Dense, FiniteDifference, Hessian, RebuiltHessian, Scaled
from tightrope.errors import ShapeError
from tightrope.parameters import flatten, trainable

Case = namedtuple("Case", "model loss_fn batch")


@pytest.fixture(autouse=True)
def _double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def mean_squared_error(model, batch):
    x, y = batch
    return ((model(x) - y) ** 2).mean()


def mean_cross_entropy(model, batch):
    x, y = batch
    return cross_entropy(model(x).flatten(0, -2), y.flatten())


def regression(*layers, n=6, d_in=3, d_out=2, train=True):
    model = nn.Sequential(*layers).train(train)
    return Case(model, mean_squared_error, (torch.randn(n, d_in), torch.randn(n, d_out)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(3, 3), nn.Linear(3, 3)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(torch.tanh(self.encode(x)))[:, :2]


class Odd(nn.Module):
    """A scalar parameter, one that is not contiguous, one that is unused and one that enters linearly."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.randn(2))
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.weight = nn.Parameter(torch.randn(2, 3).T)
        self.linear = nn.Parameter(torch.randn(2))
        assert not self.weight.is_contiguous()

    def forward(self, x):
        return torch.sin(self.scale * x @ self.weight)


def odd_loss(model, batch):
    return mean_squared_error(model, batch) + getattr(model, "linear", torch.zeros(2)).sum()


class Attention(nn.Module):
    """One pre-norm transformer block on the default scaled_dot_product_attention."""

    def __init__(self, d=4, num_heads=2):
        super().__init__()
        self.num_heads, self.embed = num_heads, nn.Embedding(5, d)
        self.norm, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.project = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.mlp, self.head = nn.Sequential(nn.Linear(d, 6), nn.GELU(), nn.Linear(6, d)), nn.Linear(d, 5)

    def forward(self, tokens):
        x = self.embed(tokens)
        heads = self.qkv(self.norm(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).flatten(-2))
        return self.head(x + self.mlp(self.norm2(x)))


def tokens_case(model):
    return Case(model, mean_cross_entropy, (torch.randint(5, (3, 4)), torch.randint(5, (3, 4))))


def partly_frozen():
    case = regression(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    case.model[0].weight.requires_grad_(False)
    case.model[2].bias.requires_grad_(False)
    return case


def batch_norm(train):
    case = regression(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2), train=train)
    case.model[1].running_mean.normal_()
    return case


def encoder_layer(train):
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, dropout=0.0, batch_first=True, activation="gelu")
    model = nn.Sequential(nn.Embedding(5, 4), layer, nn.Linear(4, 5)).train(train)
    return tokens_case(model)


CASES = {
    "MLP": lambda: regression(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)),
    "tied weights": lambda: regression(Tied()),
    "frozen parameters": partly_frozen,
    "odd parameters": lambda: Case(Odd(), mean_squared_error, (torch.randn(6, 3), torch.randn(6, 2))),
    "BatchNorm in train mode": lambda: batch_norm(train=True),
    "BatchNorm in eval mode": lambda: batch_norm(train=False),
    "LayerNorm": lambda: regression(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2), nn.LayerNorm(2)),
    "dropout in train mode": lambda: regression(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 2)),
    "convolution": lambda: regression(
        nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.Softplus(), nn.Flatten(), nn.Linear(4, 2)
    ),
    "embedding": lambda: tokens_case(nn.Sequential(nn.Embedding(5, 3), nn.Tanh(), nn.Linear(3, 5))),
    "attention": lambda: tokens_case(Attention()),
    "encoder layer in train mode": lambda: encoder_layer(train=True),
    "encoder layer in eval mode": lambda: encoder_layer(train=False),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]()


def loss_at(case, w):
    """The loss as a function of the flat vector, with the random draws of seed 1 and copies of the buffers."""
    named = trainable(case.model)
    parts = w.split([parameter.numel() for parameter in named.values()])
    values = {name: part.view(parameter.shape) for (name, parameter), part in zip(named.items(), parts, strict=True)}
    values |= {name: buffer.clone() for name, buffer in case.model.named_buffers()}
    torch.manual_seed(1)
    return case.loss_fn(lambda x: functional_call(case.model, values, (x,)), case.batch)


def weights(case):
    return flatten([parameter.detach() for parameter in trainable(case.model).values()])


def built(case, **settings):
    torch.manual_seed(1)
    return Hessian(case.model, case.loss_fn, case.batch, **settings)


def whole(H):
    return H @ torch.eye(H.size, dtype=H.dtype)


def dense_hessian(case):
    with sdpa_kernel(SDPBackend.MATH):
        return hessian(lambda w: loss_at(case, w), weights(case))


def dense_gradient(case, w):
    w = w.clone().requires_grad_()
    return torch.autograd.grad(loss_at(case, w), w)[0]


def test_products_are_the_dense_hessian(case):
    torch.testing.assert_close(whole(built(case)), dense_hessian(case), rtol=1e-10, atol=1e-12)


def test_products_are_central_differences_of_gradients(case):
    H, w = built(case), weights(case)
    v = torch.randn(H.size)
    difference = (dense_gradient(case, w + 1e-5 * v) - dense_gradient(case, w - 1e-5 * v)) / 2e-5
    torch.testing.assert_close(H @ v, difference, rtol=1e-6, atol=1e-7)


def test_loss_and_gradient_are_those_of_the_model(case):
    H = built(case)
    assert H.loss == pytest.approx(float(loss_at(case, weights(case))), rel=1e-12)
    torch.testing.assert_close(H.gradient, dense_gradient(case, weights(case)), rtol=1e-10, atol=1e-12)
    assert not H.gradient.requires_grad


def test_the_hessian_is_symmetric_and_every_product_sees_the_same_random_draws(case):
    H = built(case)
    A = whole(H)
    torch.testing.assert_close(A, A.T, rtol=1e-10, atol=1e-13)
    assert torch.equal(A, whole(H))


def test_a_block_is_its_columns_side_by_side(case):
    H = built(case)
    V = torch.randn(3, H.size).T
    HV = H @ V
    assert HV.shape == (H.size, 3)
    assert not HV.requires_grad
    for i in range(3):
        assert torch.equal(HV[:, i], H @ V[:, i])


def test_products_are_linear(case):
    H = built(case)
    u, v = torch.randn(2, H.size)
    torch.testing.assert_close(H @ (2 * u - v), 2 * (H @ u) - H @ v, rtol=1e-10, atol=1e-12)


# Which parameters


def test_unused_and_linear_parameters_have_zero_rows():
    case = Case(Odd(), odd_loss, (torch.randn(6, 3), torch.randn(6, 2)))
    H = built(case)
    A = whole(H)
    assert (A[:2] == 0).all()
    assert (A[-2:] == 0).all()
    assert (A[2:-2].abs() > 0).any()
    assert H.gradient[-2:].tolist() == [1.0, 1.0]
    assert H.gradient[:2].tolist() == [0.0, 0.0]


def test_a_loss_that_is_linear_in_everything_has_a_zero_hessian():
    model = nn.Linear(3, 1)
    H = Hessian(model, lambda model, x: model(x).mean(), torch.ones(4, 3))
    assert torch.equal(whole(H), torch.zeros(4, 4))
    assert H.gradient.tolist() == [1.0] * 4


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1), (2,), (1, 0, 3)])
def test_params_choose_the_block_and_its_order(order):
    case = CASES["MLP"]()
    every = list(case.model.parameters())
    offsets = [0, *torch.tensor([parameter.numel() for parameter in every]).cumsum(0).tolist()]
    rows = torch.cat([torch.arange(offsets[i], offsets[i + 1]) for i in order])
    H = built(case, params=[every[i] for i in order])
    torch.testing.assert_close(whole(H), dense_hessian(case)[rows][:, rows], rtol=1e-10, atol=1e-12)


def test_a_gradient_hook_of_the_user_does_not_bend_the_hessian():
    case = CASES["MLP"]()
    plain = whole(built(case))
    calls = []
    case.model[0].weight.register_hook(lambda g: (calls.append(1), 3 * g)[1])
    assert torch.equal(whole(built(case)), plain)
    assert calls == []


def test_a_compiled_model_has_the_hessian_of_the_model_itself():
    case = CASES["MLP"]()
    plain = whole(built(case))
    compiled = torch.compile(case.model, backend="aot_eager")
    torch.testing.assert_close(whole(built(case._replace(model=compiled))), plain, rtol=1e-10, atol=1e-12)


def test_a_compiled_function_in_the_loss_runs_eagerly_and_is_not_compiled_anew():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    case = CASES["MLP"]()
    squash = torch.compile(lambda z: torch.tanh(z) * 2, backend=backend)
    H = Hessian(case.model, lambda model, batch: mean_squared_error(lambda x: squash(model(x)), batch), case.batch)
    plain = Hessian(
        case.model, lambda model, batch: mean_squared_error(lambda x: torch.tanh(model(x)) * 2, batch), case.batch
    )
    assert compiled == []
    torch.testing.assert_close(whole(H), whole(plain), rtol=1e-12, atol=1e-14)
    squash(torch.ones(2))
    assert len(compiled) == 1


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        *((nn.Embedding, kind) for kind in (Hessian, RebuiltHessian, FiniteDifference)),
        (nn.EmbeddingBag, FiniteDifference),
    ],
)
def test_a_sparse_embedding_has_the_hessian_of_a_dense_one(make, kind):
    def loss_fn(model, batch):
        return model(batch).pow(3).sum()

    tables = [make(7, 3, sparse=is_sparse) for is_sparse in (False, True)]
    tables[1].load_state_dict(tables[0].state_dict())
    batch = torch.tensor([[1, 1, 4], [2, 4, 0]])
    dense, sparse = (kind(table, loss_fn, batch) for table in tables)
    torch.testing.assert_close(sparse.gradient, dense.gradient)
    torch.testing.assert_close(whole(sparse), whole(dense))
    assert whole(dense).any()


def test_a_graph_outlives_later_changes_of_the_buffers():
    case = CASES["BatchNorm in eval mode"]()
    H = built(case)
    before = whole(H)
    case.model.train()(case.batch[0])
    case.model[1].running_var.mul_(3)
    assert torch.equal(whole(H), before)


def test_products_work_where_gradients_are_off():
    case = CASES["MLP"]()
    expected = whole(built(case))
    with torch.no_grad():
        assert torch.equal(whole(built(case)), expected)


@pytest.mark.parametrize("name", [name for name in CASES if "dropout" not in name])
def test_products_in_float32_are_right_to_its_precision(name):
    case = CASES[name]()
    expected = dense_hessian(case)
    batch = tuple(x.float() if x.is_floating_point() else x for x in case.batch)
    H = built(case._replace(model=case.model.float(), batch=batch))
    assert H.dtype == torch.float32
    torch.testing.assert_close(whole(H).double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


# Chunks


Pair = namedtuple("Pair", "x y")


def pair_loss(model, batch):
    return mean_squared_error(model, (batch.x, batch.y))


BATCHES = {
    "tuple": (mean_squared_error, lambda x, y: (x, y)),
    "list": (mean_squared_error, lambda x, y: [x, y]),
    "named tuple": (pair_loss, Pair),
    "dict": (lambda model, batch: mean_squared_error(model, batch.values()), lambda x, y: {"x": x, "y": y}),
    "tensor": (lambda model, x: (model(x) ** 2).mean(), lambda x, y: x),
}


@pytest.mark.parametrize("chunk_size", [1, 3, 10, 11])
@pytest.mark.parametrize("kind", BATCHES)
def test_chunks_add_up_to_the_whole_batch(kind, chunk_size):
    loss_fn, batch = BATCHES[kind]
    case = Case(CASES["MLP"]().model, loss_fn, batch(torch.randn(10, 3), torch.randn(10, 2)))
    H, chunked = built(case), built(case, chunk_size=chunk_size)
    torch.testing.assert_close(whole(chunked), whole(H), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(chunked.gradient, H.gradient, rtol=1e-12, atol=1e-13)
    assert chunked.loss == pytest.approx(H.loss, rel=1e-12)
    assert chunked.route != H.route


@pytest.mark.parametrize("chunk_size", [1, 4])
@pytest.mark.parametrize(
    "batch",
    [
        (torch.ones(4, 3), torch.ones(3, 2)),
        (torch.ones(0, 3), torch.ones(0, 2)),
        None,
        7,
        (),
        {"x": "text"},
        (torch.ones(4, 3), torch.tensor(1.0)),
    ],
    ids=["uneven", "empty", "None", "number", "no parts", "no tensors", "0-d tensor"],
)
def test_a_batch_that_cannot_be_chunked_is_refused(batch, chunk_size):
    with pytest.raises(ShapeError, match=r"Hessian: to be chunked, a batch must be .*; got "):
        Hessian(nn.Linear(3, 2), lambda model, batch: model.weight.sum() ** 2, batch, chunk_size=chunk_size)


def test_a_nested_batch_is_cut_at_every_level():
    x, mask, y = torch.randn(5, 3).double(), torch.rand(5, 3).double(), torch.randn(5, 2).double()
    model = nn.Linear(3, 2).double()

    def loss_fn(model, batch):
        (inputs, gate), targets = batch
        return (model(inputs * gate) - targets).pow(4).mean()

    whole = Hessian(model, loss_fn, ((x, mask), y))
    parts = Hessian(model, loss_fn, ((x, mask), y), chunk_size=2)
    eye = torch.eye(whole.size).double()
    assert torch.allclose(whole @ eye, parts @ eye, rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk_size", [0, -2])
def test_a_chunk_holds_at_least_one_example(chunk_size):
    with pytest.raises(ShapeError, match=rf"chunk_size must be at least 1; got {chunk_size}"):
        built(CASES["MLP"](), chunk_size=chunk_size)


# Misuse


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (
            lambda model, x: model(x).mean(1),
            r"scalar; got shape \(4,\), torch.float\d\d\. Average it: loss\.mean\(\)",
        ),
        (lambda model, x: model(x).mean().item(), r"must return a scalar; got float"),
        (lambda model, x: None, r"must return a scalar; got NoneType"),
        (lambda model, x: model(x).mean() * 1j, r"scalar; got .*complex128"),
        (lambda model, x: model(x).mean().detach(), r"must depend on a trainable parameter; got .*detached"),
        (lambda model, x: x.mean(), r"must depend on a trainable parameter"),
    ],
    ids=["not reduced", "float", "nothing", "complex", "detached", "constant"],
)
def test_a_loss_without_curvature_is_refused(loss_fn, message):
    with pytest.raises(ShapeError, match=message):
        Hessian(nn.Linear(3, 2), loss_fn, torch.ones(4, 3))


def test_a_loss_of_one_element_is_a_scalar():
    case = CASES["MLP"]()
    H = built(case._replace(loss_fn=lambda model, batch: mean_squared_error(model, batch)[None]))
    assert torch.equal(whole(H), whole(built(case)))


def test_inference_mode_is_refused_by_name():
    case = CASES["MLP"]()
    with torch.inference_mode(), pytest.raises(ShapeError, match="inference_mode"):
        built(case)


@pytest.mark.parametrize("model", [nn.Tanh(), nn.Linear(3, 2).requires_grad_(False)], ids=["none", "all frozen"])
def test_a_model_without_trainable_parameters_is_refused(model):
    with pytest.raises(ShapeError, match="must have a parameter that requires a gradient; got none"):
        Hessian(model, lambda model, x: model(x).mean(), torch.ones(4, 3))


@pytest.mark.parametrize(
    ("v", "message"),
    [
        (torch.ones(3), r"needs vectors \(8,\) or \(8, k\); got \(3,\)"),
        (torch.ones(2, 8), r"needs vectors \(8,\) or \(8, k\); got \(2, 8\)"),
        (torch.ones(8, 1, 1), r".*got \(8, 1, 1\)"),
        (torch.tensor(1.0), r".*got \(\)"),
        (torch.ones(8, dtype=torch.float32), r"needs torch.float64 on cpu; got torch.float32 on cpu.*\.to\(\)"),
    ],
    ids=["length", "transposed", "three dimensions", "scalar", "dtype"],
)
def test_a_vector_of_the_wrong_kind_is_refused(v, message):
    H = Hessian(nn.Linear(3, 2), lambda model, x: (model(x) ** 2).mean(), torch.ones(4, 3))
    with pytest.raises(ShapeError, match="Hessian: " + message):
        H @ v


# The other operators


def test_dense_is_its_matrix():
    A = torch.randn(5, 5)
    A, V = A + A.T, torch.randn(5, 3)
    torch.testing.assert_close(Dense(A) @ V, A @ V)
    torch.testing.assert_close(Dense(A) @ V[:, 0], A @ V[:, 0])


@pytest.mark.parametrize("shift", [0.0, 0.3, "diagonal"])
@pytest.mark.parametrize("is_dense", [False, True], ids=["diagonal", "dense"])
def test_scaled_is_the_shifted_matrix_between_two_halves(is_dense, shift):
    A, V = torch.randn(5, 5), torch.randn(5, 3)
    A = A + A.T
    half = torch.randn(5, 5).tril() if is_dense else torch.rand(5)
    shift = torch.rand(5) if shift == "diagonal" else shift
    L = half if is_dense else torch.diag(half)
    expected = L.T @ (A + torch.diag(shift + torch.zeros(5))) @ L
    torch.testing.assert_close(Scaled(Dense(A), half, shift) @ V, expected @ V)


def test_scaled_takes_the_inner_products_of_the_operator_it_wraps():
    class Sharded(Dense):
        def inner(self, U, V):
            return 2 * super().inner(U, V)

    U, V = torch.randn(4, 2), torch.randn(4, 3)
    operator = Sharded(torch.eye(4))
    assert torch.equal(Scaled(operator, torch.ones(4)).inner(U, V), operator.inner(U, V))


@pytest.mark.parametrize("shape", [(3,), (4, 3), (3, 3)])
def test_a_scaling_of_another_shape_is_refused(shape):
    with pytest.raises(ShapeError, match=r"half must be \(4,\) or square; got"):
        Scaled(Dense(torch.eye(4)), torch.ones(shape))


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 2, 2)])
def test_a_matrix_that_is_not_square_is_refused(shape):
    with pytest.raises(ShapeError, match=r"the matrix must be a tensor \(p, p\); got"):
        Dense(torch.ones(shape))
