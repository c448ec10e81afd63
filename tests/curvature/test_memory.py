"""A budget in bytes is kept, a batch is cut only where that changes nothing, and running out of memory is survived."""

import subprocess
import sys

import pytest
import torch

from tightrope.curvature import MicroBatches, hessian
from tightrope.curvature.graph_size import counted_graph, graph_size
from tightrope.curvature.objective import Objective
from tightrope.errors import ConfigError

from .modules import MODELS, case, dense_hessian, loss_of


@pytest.fixture(autouse=True)
def _double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def whole(H):
    return H @ torch.eye(H.size)


def enlarged(c, n):
    """The case with its examples repeated up to n."""
    return c._replace(batch=tuple(x.repeat(n // 6, *[1] * (x.ndim - 1)) for x in c.batch))


def spent(c, batch):
    """Bytes that the graph of a batch's gradient really saves."""
    objective = Objective(c.model, loss_of(c), batch)
    with objective.environment(), counted_graph([*c.model.parameters(), *batch]) as saved:
        g = objective.gradient(objective.evaluate(batch, 1.0), create_graph=True)
        return sum(saved.values()) + sum(part.nbytes for part in g)


@pytest.mark.parametrize("model", MODELS)
def test_the_estimate_is_what_the_graph_takes(model):
    c = enlarged(case(model, "mean of squares"), 96)
    estimate = graph_size(Objective(c.model, loss_of(c), c.batch), float("inf")).of(96)
    assert estimate == pytest.approx(spent(c, c.batch), rel=0.02)


class Meter:
    """A loss that notes the most that the graph of one piece came to hold."""

    def __init__(self, c):
        self.loss_fn, self.saved, self.most = loss_of(c), {}, 0

    def __call__(self, model, batch):
        self.note()
        return self.loss_fn(model, batch)

    def note(self):
        self.most = max(self.most, sum(self.saved.values()))
        self.saved.clear()


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_a_budget_is_kept_and_the_products_are_the_same(share):
    c = enlarged(case("transformer", "cross-entropy"), 96)
    max_bytes = share * spent(c, c.batch)
    meter = Meter(c)
    with counted_graph([*c.model.parameters(), *c.batch]) as meter.saved:
        H = hessian(c.model, meter, c.batch, max_bytes=max_bytes)
        found = whole(H)
    meter.note()
    assert H.route.startswith("rebuilt graph, chunks of ")
    assert f"(max_bytes={max_bytes:.3g})" in H.route
    assert 0.3 * max_bytes < meter.most <= max_bytes
    assert H.check.is_passed
    torch.testing.assert_close(found, dense_hessian(c), rtol=0, atol=1e-11)


def test_a_budget_that_suffices_changes_nothing():
    c = enlarged(case("MLP", "mean of squares"), 96)
    H = hessian(c.model, loss_of(c), c.batch, max_bytes=1.1 * spent(c, c.batch))
    assert H.route == "kept graph"


def test_a_budget_shortens_chunks_that_were_asked_for_and_never_lengthens_them():
    c = enlarged(case("MLP", "sum of squares"), 96)
    mean = c._replace(criterion=case("MLP", "mean of squares").criterion)
    half = spent(mean, mean.batch) / 2
    assert "chunks of 5 (" in hessian(mean.model, loss_of(mean), mean.batch, chunk_size=5, max_bytes=half).route
    longest = hessian(mean.model, loss_of(mean), mean.batch, max_bytes=half).route
    assert hessian(mean.model, loss_of(mean), mean.batch, chunk_size=90, max_bytes=half).route == longest


@pytest.mark.parametrize(("model", "criterion"), [("MLP", "sum of squares"), ("BatchNorm", "mean of squares")])
def test_a_loss_that_is_not_the_mean_over_examples_is_not_cut(model, criterion):
    c = enlarged(case(model, criterion), 96)
    with pytest.raises(ConfigError, match=r"the loss is not the mean of its parts' \(.*\)\. Give a smaller batch"):
        hessian(c.model, loss_of(c), c.batch, max_bytes=spent(c, c.batch) / 2)


def test_a_budget_below_one_example_is_refused():
    c = enlarged(case("MLP", "mean of squares"), 96)
    with pytest.raises(ConfigError, match="must fit into memory; max_bytes is 100"):
        hessian(c.model, loss_of(c), c.batch, max_bytes=100)


@pytest.mark.parametrize("chunk_size", [None, 8])
def test_micro_batches_whose_graphs_do_not_fit_together_are_rebuilt_one_at_a_time(chunk_size):
    c = enlarged(case("MLP", "mean of squares"), 96)
    parts = [tuple(x[start : start + 24] for x in c.batch) for start in range(0, 96, 24)]
    budget = 1.5 * spent(c, parts[0])
    meter = Meter(c)
    with counted_graph([*c.model.parameters(), *c.batch]) as meter.saved:
        H = hessian(c.model, meter, MicroBatches(parts), chunk_size=chunk_size, max_bytes=budget)
        found = whole(H)
    meter.note()
    assert H.route == f"rebuilt graph{'' if chunk_size is None else ', chunks of 8'} (max_bytes={budget:.3g})"
    assert meter.most <= budget
    torch.testing.assert_close(found, dense_hessian(c), rtol=0, atol=1e-11)


def test_micro_batches_of_which_one_does_not_fit_are_refused():
    c = enlarged(case("MLP", "mean of squares"), 96)
    parts = [tuple(x[rows] for x in c.batch) for rows in (slice(0, 12), slice(12, 96))]
    for budget in (0.5 * spent(c, parts[1]), 0.99 * spent(c, parts[1])):
        with pytest.raises(ConfigError, match=r"max_bytes is .*, and a piece of the batch takes more\. Give"):
            hessian(c.model, loss_of(c), MicroBatches(parts), max_bytes=budget)


def test_a_batch_that_cannot_be_cut_is_stopped_before_it_exceeds_the_budget():
    c = enlarged(case("MLP", "mean of squares"), 96)
    hidden = iter  # an iterator is no batch that can be cut, and nobody sees that its tensors are there anyway
    budget = spent(c, c.batch) + sum(x.nbytes for x in c.batch)

    def loss_fn(model, batch):
        return loss_of(c)(model, c.batch)

    assert hessian(c.model, loss_fn, hidden(()), max_bytes=budget).route == "kept graph"
    with counted_graph(list(c.model.parameters())) as saved, pytest.raises(ConfigError, match="must fit into memory"):
        hessian(c.model, loss_fn, hidden(()), max_bytes=budget / 2)
    assert sum(saved.values()) <= budget / 2


# Out of memory


def short_of_memory(c, most, error=torch.OutOfMemoryError, where=torch.is_grad_enabled):
    """The case's loss on a machine that holds the graph of `most` examples."""
    calls = []

    def loss_fn(model, batch):
        calls.append(len(batch[0]))
        if len(batch[0]) > most and where():
            raise error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        return loss_of(c)(model, batch)

    return loss_fn, calls


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_out_of_memory_falls_back_to_pieces(error):
    c = enlarged(case("MLP", "mean of squares"), 96)
    loss_fn, _ = short_of_memory(c, 20, error)
    H = hessian(c.model, loss_fn, c.batch)
    assert H.route == "rebuilt graph, chunks of 12 (out of memory)"
    torch.testing.assert_close(whole(H), dense_hessian(c), rtol=0, atol=1e-11)


def test_out_of_memory_falls_back_once():
    c = enlarged(case("MLP", "mean of squares"), 96)
    loss_fn, calls = short_of_memory(c, 3)
    with pytest.raises(torch.OutOfMemoryError):
        hessian(c.model, loss_fn, c.batch)
    assert calls.count(96) == 2
    assert calls.count(12) == 9


def test_micro_batches_out_of_memory_are_taken_one_at_a_time():
    c = enlarged(case("MLP", "mean of squares"), 96)
    parts = [tuple(x[i : i + 32] for x in c.batch) for i in (0, 32, 64)]
    num_graphs = []

    def loss_fn(model, batch):
        num_graphs.append(torch.is_grad_enabled())
        if len(num_graphs) == 2:
            raise torch.OutOfMemoryError("two graphs are too many")
        return loss_of(c)(model, batch)

    H = hessian(c.model, loss_fn, MicroBatches(parts))
    assert H.route == "rebuilt graph (out of memory)"
    torch.testing.assert_close(whole(H), dense_hessian(c), rtol=0, atol=1e-11)


REAL = """
import resource, sys, torch
from torch import nn
from tightrope.curvature import hessian
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(10, 500), *(nn.Tanh() for _ in range(10)), nn.Linear(500, 1))
x = torch.randn(20_000, 10)  # 40 MB a layer, 1.2 GB for the graph
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 600_000_000, resource.RLIM_INFINITY))
H = hessian(model, lambda model, x: (model(x) ** 2).mean(), x)
print(H.route, bool((H @ torch.ones(H.size)).isfinite().all()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_a_machine_that_runs_out_of_memory_is_survived():
    result = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, timeout=300)
    assert result.stdout.strip() == "rebuilt graph, chunks of 2500 (out of memory) True", result.stderr
