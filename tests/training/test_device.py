"""Where a run's model and data lie. What needs a second device runs where there is one."""

import msgspec
import pytest
import torch

import tightrope as tr
from tightrope.errors import ConfigError
from tightrope.optim import RECIPES
from tightrope.problems import Digits
from tightrope.training import MeasureConfig, RunConfig, resume

from .test_resume import Killed, events_of, killed_at

CONFIG = RunConfig(
    problem=Digits(hidden=(8,), num_examples=40, num_test_examples=20),
    method=RECIPES["adam"](lr=1e-2),
    num_steps=20,
    batch_size=10,
    measure=MeasureConfig(every=5),
    checkpoint_seconds=0,
)
HAS_GPU = torch.cuda.is_available()


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "", "meta:0:1"])
def test_a_device_that_is_not_here_is_one_line_and_nothing_is_written(device, tmp_path):
    with pytest.raises(ConfigError, match=r"device: must be one that torch has here; got '.*' \(.*\)\. Use cpu\.") as e:
        tr.run(msgspec.structs.replace(CONFIG, device=device), out=tmp_path / "run")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()


def test_a_problem_that_was_moved_is_still_one_flat_parameter():
    # float64 on the meta device stands for another one: it holds shapes, and shows what lies where.
    problem = CONFIG.problem.build(0, torch.float64)
    moved = problem.on(torch.device("meta"))
    assert {tensor.device.type for tensor in (*moved.batch, *moved.test_batch, *moved.parameters)} == {"meta"}
    moved.loss_fn(moved.model, moved.batch).backward()
    assert moved.gradient.shape == moved.w.shape == (sum(w.numel() for w in moved.parameters),)


def test_a_problem_that_is_where_it_should_be_stays_as_it_is():
    problem = CONFIG.problem.build(0, torch.float64)
    assert problem.on(torch.device("cpu")) is problem


@pytest.mark.skipif(not HAS_GPU, reason="no GPU")
def test_a_run_on_a_gpu_is_stored_and_taken_up_as_one_on_the_cpu(tmp_path):
    config = msgspec.structs.replace(CONFIG, device="cuda", dtype="float64")
    record = tr.run(config, out=tmp_path / "alone")
    at_home = tr.run(msgspec.structs.replace(config, device="cpu"), out=tmp_path / "cpu")
    assert record.start["device"].startswith("cuda")
    assert record.steps["loss"] == pytest.approx(at_home.steps["loss"], rel=1e-9)
    with pytest.raises(Killed):
        tr.run(config, out=tmp_path / "run", observe=killed_at(12))
    resume(tmp_path / "run")
    assert events_of(tmp_path / "run") == events_of(tmp_path / "alone")
