"""Two processes over gloo: examples or vectors in shards give the numbers that one process gives."""

from __future__ import annotations

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.reference.matrices import randn, symmetric
from tightrope.curvature import (
    Dense,
    Hessian,
    Sharded,
    SymmetricOperator,
    condition_number,
    diagonal,
    frobenius_norm,
    spectral_density,
    top_eigenvalues,
    trace,
)
from tightrope.curvature.draws import gaussian, seeded
from tightrope.errors import ConfigError, ShapeError

NUM_PROCESSES = 2
EXAMPLES = randn(11, 3)
SHARDS = EXAMPLES[:4], EXAMPLES[4:]
P = 40
ROWS = slice(0, 16), slice(16, P)
MATRIX = symmetric([9.0, 4.0, -6.0, *torch.linspace(0, 0.02, P - 3).tolist()], seed=4)
LOW_RANK = symmetric([9.0, 4.0, -6.0] + [0.0] * (P - 3), seed=5)
START = randn(P, 3, seed=6)


def hessian(examples):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2)).double()
    return Hessian(model, lambda model, x: model(x).exp().mean(), examples)


def numbers(operator):
    """Whatever the tools say of an operator, by name."""
    top = top_eigenvalues(operator, k=2, rtol=1e-9)
    warm = top_eigenvalues(operator, k=2, start=top.warm_start, seed=1)
    density = spectral_density(operator, num_vectors=2, num_steps=8)
    return {
        "product": operator @ randn(operator.size, 2, seed=1),
        "values": top.values,
        "upper": torch.tensor(top.upper, dtype=torch.float64),
        "warm values": warm.values,
        "nodes": density.nodes,
        "weights": density.weights,
        "trace": torch.tensor(trace(operator, num_products=12).value, dtype=torch.float64),
        "norm": torch.tensor(frobenius_norm(operator, num_products=12).value, dtype=torch.float64),
        "diagonal": diagonal(operator, num_vectors=4).values,
        "largest": torch.tensor(condition_number(operator, num_products=8).largest, dtype=torch.float64),
    }


class Rows(SymmetricOperator):
    """A matrix of which each process holds some rows, and of every vector the same rows."""

    route = "rows"

    def __init__(self, A, rank):
        self.rows, self.p = ROWS[rank], len(A)
        self.A = A[self.rows]
        self.size, self.dtype, self.device = len(self.A), A.dtype, A.device

    def apply(self, v):
        whole = torch.zeros(self.p, dtype=v.dtype)
        whole[self.rows] = v
        dist.all_reduce(whole)
        return self.A @ whole

    def inner(self, U, V):
        product = U.T @ V
        dist.all_reduce(product)
        return product


def refused(make):
    try:
        make()
    except (ConfigError, ShapeError) as error:
        return str(error)
    return ""


def examples_in_shards(rank):
    return numbers(Sharded(hessian(SHARDS[rank]), weight=len(SHARDS[rank])))


def weights_that_are_refused(rank):
    operator = Dense(torch.eye(3 + rank, dtype=torch.float64))
    same = Dense(torch.eye(3, dtype=torch.float64))
    return [
        refused(lambda: Sharded(operator)),
        refused(lambda: Sharded(same, weight=-1.0 if rank else 1.0)),
        refused(lambda: Sharded(same, weight=float("nan") if rank else 1.0)),
        refused(lambda: Sharded(same, weight=0.0)),
        Sharded(Dense(torch.full((2, 2), float("nan") if rank else 7.0)), weight=1.0 - rank) @ torch.ones(2),
    ]


def vectors_in_shards(rank):
    """Each process draws its own part of random vectors, and so needs a seed of its own."""
    A, low = Rows(MATRIX, rank), Rows(LOW_RANK, rank)
    density = spectral_density(low, num_vectors=1, num_steps=10, seed=rank)
    nan_start = START.clone()
    nan_start[0, 1] = float("nan")  # in the rows of one process
    return {
        "cold": top_eigenvalues(A, k=2, rtol=1e-8, seed=rank, max_products=15).values,
        "warm": top_eigenvalues(A, k=2, rtol=1e-8, seed=rank, max_products=15, start=START[A.rows]).values,
        "NaN start": top_eigenvalues(A, k=2, rtol=1e-8, seed=rank, max_products=15, start=nan_start[A.rows]).values,
        "restarted": top_eigenvalues(A, k=2, rtol=1e-6, seed=rank, max_products=60, max_basis=9).values,
        "nodes": density.nodes,
        "weights": density.weights,
        "trace": trace(low, num_products=15, seed=rank).value,
        "norm": frobenius_norm(low, num_products=15, seed=rank).value,
    }


def process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=NUM_PROCESSES,
        timeout=timedelta(seconds=60),
    )
    jobs = examples_in_shards, weights_that_are_refused, vectors_in_shards
    torch.save({job.__name__: job(rank) for job in jobs}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of the two processes found, by job."""
    folder = tmp_path_factory.mktemp("gloo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        mp.spawn(process, args=(str(folder),), nprocs=NUM_PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(NUM_PROCESSES)]


def test_examples_in_shards_give_the_single_process_numbers(found):
    for name, value in numbers(hessian(EXAMPLES)).items():
        torch.testing.assert_close(
            found[0]["examples_in_shards"][name], value, rtol=1e-12, atol=1e-12, msg=lambda text, name=name: name + text
        )


def test_every_process_gets_the_same_bits(found):
    one, other = (each["examples_in_shards"] for each in found)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_one_shard_alone_gives_other_numbers():
    one, all_of_them = numbers(hessian(SHARDS[0])), numbers(hessian(EXAMPLES))
    assert all(not torch.allclose(one[name], all_of_them[name], rtol=1e-6, atol=0) for name in one)


def test_vectors_in_shards_give_the_eigenvalues_of_the_whole(found):
    truth = torch.linalg.eigvalsh(MATRIX).flip(0)[:2]
    for rank in range(NUM_PROCESSES):
        for start in ("cold", "warm", "NaN start", "restarted"):
            torch.testing.assert_close(found[rank]["vectors_in_shards"][start], truth, rtol=1e-12, atol=0)


def test_vectors_in_shards_give_the_spectrum_of_the_whole(found):
    for each in found:
        got = each["vectors_in_shards"]
        nodes, weights = got["nodes"][0, :4], got["weights"][0, :4]
        torch.testing.assert_close(nodes, torch.tensor([-6.0, 0.0, 4.0, 9.0]).double(), rtol=1e-12, atol=1e-12)
        v = torch.cat(
            [gaussian(Dense(torch.eye(len(START[rows])).double()), 1, seeded(i))[:, 0] for i, rows in enumerate(ROWS)]
        )
        vectors = torch.linalg.eigh(LOW_RANK).eigenvectors[:, [0, -2, -1]]
        torch.testing.assert_close(weights[[0, 2, 3]], (vectors.T @ v) ** 2 / v.dot(v), rtol=1e-12, atol=1e-12)
        assert got["trace"] == pytest.approx(7.0, rel=1e-12)
        assert got["norm"] == pytest.approx(133**0.5, rel=1e-12)


def test_what_one_process_finds_wrong_all_of_them_refuse(found):
    for each in found:
        sizes, negative, nan, nothing, _ = each["weights_that_are_refused"]
        assert sizes == "Sharded: the operators must have one size; got [3, 4]."
        assert negative == "Sharded: weight must be at least 0 and finite; got -1.0."
        assert nan == "Sharded: weight must be at least 0 and finite; got nan."
        assert nothing == "Sharded: the sum of weights must be above 0; got 0.0."


def test_a_process_of_weight_zero_takes_no_part(found):
    for each in found:
        assert torch.equal(each["weights_that_are_refused"][-1], torch.full((2,), 14.0))


def test_without_processes_it_says_what_to_do():
    with pytest.raises(ConfigError, match=r"must be initialised; it is not. Call torch.distributed.init_process_group"):
        Sharded(Dense(torch.eye(2)))
