"""What a Hessian-vector product costs, as a ratio to one gradient on the same data, one thread, one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tightrope.curvature import FiniteDifference, GaussNewton, Hessian, RebuiltHessian, SymmetricOperator, self_check
from tightrope.problems import fully_connected

from .calibration import median_seconds

KNOWN = {"MLP": 1.40, "CNN": 2.12, "transformer": 2.57}
KNOWN_REBUILT = {"MLP": 2.40, "CNN": 3.58, "transformer": 3.91}
KNOWN_GAUSS_NEWTON = {"MLP": 1.14, "CNN": 1.05, "transformer": 1.61}
ALLOWED = 1.15


class Block(nn.Module):
    """A pre-LN transformer block."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        heads = self.qkv(self.norm1(x)).view(n, t, 3, self.num_heads, d // self.num_heads).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(n, t, d))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """d = 128, 4 blocks, 4 heads, vocabulary 256, sequence 64, or as said."""

    def __init__(
        self, width: int = 128, num_blocks: int = 4, num_heads: int = 4, vocabulary: int = 256, length: int = 64
    ) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(Block(width, num_heads) for _ in range(num_blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.token(tokens) + self.position)))


def outputs(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return model(batch[0])


def half_squares(z: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (z - batch[1]).square().sum() / (2 * len(z))


def squared(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return half_squares(outputs(model, batch), batch)


def logits(model: nn.Module, tokens: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return model(tokens[:, :-1])


def next_cross_entropy(z: Tensor, tokens: Tensor) -> Tensor:
    return nn.functional.cross_entropy(z.flatten(0, 1), tokens[:, 1:].flatten())


def next_token(model: nn.Module, tokens: Tensor) -> Tensor:
    return next_cross_entropy(logits(model, tokens), tokens)


def cases() -> dict[str, tuple[nn.Module, Callable[..., Tensor], object]]:
    """The three models with their losses and data."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    mlp = fully_connected(3072, (200,) * 5, 10, "tanh", generator)
    channels = (3, 16, 16, 16)
    layers: list[nn.Module] = []
    for c_in, c_out in pairwise(channels):
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2)]
    cnn = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10))
    images, labels = torch.randn(2000, 3, 32, 32), torch.eye(10)[torch.randint(10, (2000,))]
    return {
        "MLP": (mlp, squared, (images.flatten(1), labels)),
        "CNN": (cnn, squared, (images[:1000], labels[:1000])),
        "transformer": (Transformer(), next_token, torch.randint(256, (16, 65))),
    }


def costs(model: nn.Module, loss_fn: Callable[..., Tensor], batch: object) -> tuple[float, float, float]:
    """Seconds of a gradient, of building the operator, and of one product with it."""
    parameters = list(model.parameters())

    def gradient() -> object:
        return torch.autograd.grad(loss_fn(model, batch), parameters)

    before = median_seconds(gradient)
    build = median_seconds(lambda: Hessian(model, loss_fn, batch), repeats=5)
    H = Hessian(model, loss_fn, batch)
    v = torch.randn(H.size)
    product = median_seconds(lambda: H @ v)
    return (before + median_seconds(gradient)) / 2, build, product


def gauss_newton(model: nn.Module, loss_fn: Callable[..., Tensor], batch: object) -> GaussNewton:
    """Of the same loss in its two parts."""
    forward, criterion = (outputs, half_squares) if loss_fn is squared else (logits, next_cross_entropy)
    return GaussNewton(model, forward, criterion, batch)


def route_costs(model: nn.Module, loss_fn: Callable[..., Tensor], batch: object) -> list[float]:
    """Products by the other routes and the check of first use, in gradients."""
    parameters = list(model.parameters())
    unit = median_seconds(lambda: torch.autograd.grad(loss_fn(model, batch), parameters), repeats=5)
    routes: list[SymmetricOperator] = [
        RebuiltHessian(model, loss_fn, batch),
        gauss_newton(model, loss_fn, batch),
        FiniteDifference(model, loss_fn, batch, dtype=torch.float32),
        FiniteDifference(model, loss_fn, batch, dtype=torch.float64),
    ]
    v = torch.randn(routes[0].size)
    ratios = [median_seconds(lambda H=H: H @ v, repeats=3) / unit for H in routes]
    H = Hessian(model, loss_fn, batch)
    return [*ratios, median_seconds(lambda: self_check(H), repeats=1) / unit]


def lines() -> Iterator[str]:
    torch.set_num_threads(1)
    yield (f"{'model':<12} {'parameters':>10} {'gradient':>10} {'build':>7} {'product':>8} {'known':>6}")
    for name, (model, loss_fn, batch) in cases().items():
        unit, build, product = costs(model, loss_fn, batch)
        size, ratio = sum(w.numel() for w in model.parameters()), product / unit
        verdict = "within" if ratio <= ALLOWED * KNOWN[name] else "MISS"
        yield (f"{name:<12} {size:>10} {unit:9.3f}s {build / unit:7.2f} {ratio:8.2f} {KNOWN[name]:6.2f}  {verdict}")
    yield ""
    yield f"{'':<12} {'rebuilt':>8} {'known':>6} {'Gauss-N.':>9} {'known':>6} {'diff. 32':>14} {'64':>6} {'check':>6}"
    for name, (model, loss_fn, batch) in cases().items():
        rebuilt, newton, single, double, check = route_costs(model, loss_fn, batch)
        knowns = KNOWN_REBUILT[name], KNOWN_GAUSS_NEWTON[name]
        is_within = rebuilt <= ALLOWED * knowns[0] and newton <= ALLOWED * knowns[1]
        yield (
            f"{name:<12} {rebuilt:8.2f} {knowns[0]:6.2f} {newton:9.2f} {knowns[1]:6.2f} {single:14.2f} {double:6.2f} "
            f"{check:6.2f}  {'within' if is_within else 'MISS'}"
        )
