"""How the seconds of a product and of a cold measurement grow, with parameters and with examples; one thread.

A fully-connected tanh network of two hidden layers on random data, three steps of Adam old. An exponent is the slope
of a least-squares line through the logarithms, with its standard error. A cold measurement is the ratio from nothing:
the recorded gradient and as many products as it takes, which are printed, for they depend on the spectrum.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import mean

import torch

from tightrope.curvature import Hessian
from tightrope.problems import fully_connected
from tightrope.stability import Probe

from .calibration import median_seconds
from .contenders import Criterion, Task

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
EXAMPLES = (100, 300, 1_000, 3_000, 10_000)
INPUTS, OUTPUTS = 64, 10


def exponent(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """b and its standard error in y = a x^b, by least squares on logarithms."""
    u, v = [math.log(each) for each in x], [math.log(each) for each in y]
    spread = sum((each - mean(u)) ** 2 for each in u)
    b = sum((p - mean(u)) * (q - mean(v)) for p, q in zip(u, v, strict=True)) / spread
    rest = sum((q - mean(v) - b * (p - mean(u))) ** 2 for p, q in zip(u, v, strict=True))
    return b, math.sqrt(rest / (len(u) - 2) / spread)


def task(num_parameters: int, num_examples: int) -> Task:
    """About that many parameters: with two hidden layers of width h, h^2 + (INPUTS + OUTPUTS + 2) h + OUTPUTS."""
    linear = INPUTS + OUTPUTS + 2
    width = round((math.sqrt(linear**2 + 4 * num_parameters) - linear) / 2)
    generator = torch.Generator().manual_seed(0)
    model = fully_connected(INPUTS, (width, width), OUTPUTS, "tanh", generator)
    x = torch.randn(num_examples, INPUTS, generator=generator)
    labels = torch.randint(OUTPUTS, (num_examples,), generator=generator)
    return Task(model, Criterion(True), x, torch.eye(OUTPUTS)[labels])


def cost(task: Task) -> tuple[float, float, int]:
    """Seconds of a product, and seconds and products of a cold measurement."""
    optimizer = torch.optim.Adam(task.model.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        task.loss_fn(task.model, task.batch).backward()
        optimizer.step()
    H = Hessian(task.model, task.loss_fn, task.batch)
    v = torch.randn(H.size)

    found: list[int] = []

    def measure() -> None:
        probe = Probe(task.model, task.loss_fn, has_sharpness=False, audit_every=0)
        found.append(probe.measure(optimizer, task.batch).num_products)

    product, measurement = median_seconds(lambda: H @ v, repeats=5), median_seconds(measure, repeats=1)
    return product, measurement, found[-1]


def table(head: str, tasks: Sequence[Task], x: Sequence[float]) -> Iterator[str]:
    """A row for each task, and the exponents in x."""
    yield f"| {head} | one product, s | a cold measurement, s | its products |"
    yield "|---|---|---|---|"
    products, measurements = [], []
    for at, each in zip(x, tasks, strict=True):
        product, measurement, num_products = cost(each)
        products.append(product)
        measurements.append(measurement)
        yield f"| {at:,} | {product:.3g} | {measurement:.3g} | {num_products} |"
    (b, db), (c, dc) = exponent(x, products), exponent(x, measurements)
    yield f"| exponent | {b:.2f} +- {db:.2f} | {c:.2f} +- {dc:.2f} | |"


def lines() -> Iterator[str]:
    torch.set_num_threads(1)
    by_size = [task(size, 1_000) for size in SIZES]
    sizes = [sum(w.numel() for w in each.model.parameters()) for each in by_size]
    yield from table("parameters, 1,000 examples", by_size, sizes)
    yield ""
    by_number = [task(100_000, n) for n in EXAMPLES]
    yield from table("examples, 100,000 parameters", by_number, EXAMPLES)
