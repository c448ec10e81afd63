"""Runs whose preconditioner is frozen, from their beginning or in the middle, and what is measured closely."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch

import tightrope as tr
from tightrope.errors import ConfigError
from tightrope.optim import RECIPES
from tightrope.problems import Chebyshev
from tightrope.training import FreezeConfig, MeasureConfig, RunConfig, from_mapping, override, resume
from tightrope.training.config import to_mapping

from .test_resume import Killed, events_of, killed_at

LR, BETA1, BETA2, EPS = 1e-2, 0.8, 0.95, 1e-7


def frozen(freeze, **more):
    settings = {"num_steps": 30, "dtype": "float64", "measure": MeasureConfig(every=10), **more}
    method = RECIPES["adam"](lr=LR, beta1=BETA1, beta2=BETA2, eps=EPS, bias_correction=False)
    return RunConfig(problem=Chebyshev(width=10), method=method, freeze=freeze, checkpoint_seconds=0, **settings)


class PlainAdam:
    """Adam without bias correction, written out; P can be held."""

    def __init__(self, lr):
        self.problem = Chebyshev(width=10).build(0, torch.float64)
        self.lr, self.m, self.nu, self.is_held = lr, 0.0, 0.0, False

    def step(self):
        problem = self.problem
        loss = problem.loss_fn(problem.model, problem.batch)
        g = torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, problem.parameters)])
        self.m = BETA1 * self.m + (1 - BETA1) * g
        if not self.is_held:
            self.nu = BETA2 * self.nu + (1 - BETA2) * g * g
        with torch.no_grad():
            problem.w.sub_(self.lr * self.m / (self.nu**0.5 + EPS))
        return loss.item()


def test_a_run_with_p_frozen_in_the_middle_is_frozen_adam_from_there_on(tmp_path):
    record = tr.run(frozen(FreezeConfig(after=12)), out=tmp_path / "run")
    plain, losses = PlainAdam(LR), []
    for step in range(1, 31):
        plain.is_held = step > 12
        losses.append(plain.step())
    np.testing.assert_allclose(record.steps["loss"], losses, rtol=1e-10)
    norms = record.measurements["second_moment_norm"]
    assert norms[0] != norms[1]
    assert norms[2] == norms[3] == pytest.approx(float(plain.nu.norm()))
    assert record.start["method"] == "Adam with P frozen after step 12"


def test_a_run_anew_with_p_of_another_rate_begins_at_its_first_weights_without_momentum(tmp_path):
    record = tr.run(frozen(FreezeConfig(after=12, restart=True, lr_before=3e-3)), out=tmp_path / "run")
    source, plain, losses = PlainAdam(3e-3), PlainAdam(LR), []
    for _ in range(12):
        source.step()
    plain.nu, plain.is_held = source.nu, True
    for _ in range(30):
        losses.append(plain.step())
    np.testing.assert_allclose(record.steps["loss"], losses, rtol=1e-10)
    assert record.steps["step"][0] == 1
    assert record.steps["lr"][0] == LR
    assert len(set(record.measurements["second_moment_norm"])) == 1
    assert "too early to say" not in record.measurements["verdict"]  # P is full from the first step on
    assert record.start["method"] == "Adam with P frozen after step 12 of a run at rate 0.003"


@pytest.mark.parametrize("freeze", [FreezeConfig(after=12), FreezeConfig(after=12, restart=True, lr_before=3e-3)])
@pytest.mark.parametrize("step", [5, 12, 13, 20])
def test_a_frozen_run_that_was_killed_goes_on_exactly(freeze, step, tmp_path):
    config = frozen(freeze)
    tr.run(config, out=tmp_path / "alone")
    with pytest.raises(Killed):
        tr.run(config, out=tmp_path / "run", observe=killed_at(step))
    resume(tmp_path / "run")
    assert events_of(tmp_path / "run") == events_of(tmp_path / "alone")


def test_a_run_interrupted_while_its_p_is_filled_begins_anew(tmp_path, monkeypatch):
    config = frozen(FreezeConfig(after=12, restart=True))
    tr.run(config, out=tmp_path / "alone")
    with monkeypatch.context() as patch:
        patch.setattr("tightrope.training.session.Session.prepare", lambda session: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            tr.run(config, out=tmp_path / "run")
    resume(tmp_path / "run")
    assert events_of(tmp_path / "run") == events_of(tmp_path / "alone")


def test_a_frozen_run_is_a_configuration_that_a_file_holds():
    config = frozen(FreezeConfig(after=12, restart=True, lr_before=3e-3))
    assert from_mapping(to_mapping(config)) == config
    changed = from_mapping(override(to_mapping(config), ["freeze.after=20"]))
    assert changed.freeze.after == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"freeze": FreezeConfig(after=30)}, "freeze.after: must come before the last of 30 steps"),
        ({"freeze": FreezeConfig(after=5, lr_before=1e-3)}, "freeze.lr_before: is for the steps before a restart"),
        ({"freeze": FreezeConfig(after=5, restart=True, lr_before=0.0)}, "freeze.lr_before: must be positive"),
        ({"method": RECIPES["gd"](lr=0.1)}, "freeze: needs a method whose P follows the gradients"),
        ({"measure": MeasureConfig(window=(9, 3))}, "measure.window: its first step must not be after its last"),
    ],
)
def test_what_cannot_be_frozen_or_measured_says_why(change, message):
    with pytest.raises(ConfigError, match=message):
        msgspec.structs.replace(frozen(FreezeConfig(after=5)), **change)


def test_every_step_of_the_window_is_measured_and_the_others_as_always(tmp_path):
    config = frozen(None, measure=MeasureConfig(every=10, window=(13, 16)))
    record = tr.run(config, out=tmp_path / "run")
    assert list(record.measurements["step"]) == [1, 10, 13, 14, 15, 16, 20, 30]


def test_the_last_step_alone_can_be_measured(tmp_path):
    for number, measure in enumerate([MeasureConfig(every=0, at_end=True), MeasureConfig(every=0, window=(7, 8))]):
        record = tr.run(frozen(None, measure=measure), out=tmp_path / str(number))
        assert list(record.measurements["step"]) == [[30], [7, 8]][number]


def test_the_first_step_below_a_loss_is_measured_once_also_after_a_kill(tmp_path):
    losses = tr.run(frozen(None, measure=MeasureConfig(every=0)), out=tmp_path / "losses").steps["loss"]
    expected = int(np.argmax(losses <= losses[14])) + 1
    assert 1 < expected < 28
    assert (losses[expected:] <= losses[14]).any()  # it comes so low again, and is not measured again
    config = frozen(None, measure=MeasureConfig(every=0, at_loss=float(losses[14])))
    record = tr.run(config, out=tmp_path / "alone")
    assert list(record.measurements["step"]) == [expected]
    every = msgspec.structs.replace(config.measure, every=expected)
    also = tr.run(msgspec.structs.replace(config, measure=every), out=tmp_path / "also")
    assert list(also.measurements["step"])[:2] == [1, expected]
    assert expected + 1 not in also.measurements["step"]
    with pytest.raises(Killed):
        tr.run(config, out=tmp_path / "run", observe=killed_at(expected + 2))
    resume(tmp_path / "run")
    assert events_of(tmp_path / "run") == events_of(tmp_path / "alone")


def test_the_gradient_is_split_on_the_top_eigenvectors(tmp_path):
    measure = MeasureConfig(every=30, rtol=1e-8, num_eigenvalues=4)
    record = tr.run(frozen(None, measure=measure), out=tmp_path / "run")
    plain = PlainAdam(LR)
    for _ in range(29):
        plain.step()
    problem = plain.problem
    H = tr.curvature.Hessian(problem.model, problem.loss_fn, problem.batch, params=problem.parameters)
    dense = H @ torch.eye(H.size, dtype=torch.float64)
    g = H.gradient
    nu = BETA2 * plain.nu + (1 - BETA2) * g * g
    P = nu.sqrt() + EPS
    values, vectors = torch.linalg.eigh(dense / P.sqrt() / P.sqrt()[:, None])
    v = g / P.sqrt()
    top = vectors[:, -4:].T @ v
    last = {name: column[-1] for name, column in record.measurements.items()}
    threshold = (1 + BETA1) * 2 / ((1 - BETA1) * LR)
    assert np.array(last["ratios"]) * threshold == pytest.approx(values.flip(0)[:4].numpy(), rel=1e-6)
    assert last["semi_gradient_sq"] == pytest.approx(float(v @ v), rel=1e-9)
    assert last["semi_gradient_sq_top"] == pytest.approx(float(top @ top), rel=1e-6)
    assert 0 < last["semi_gradient_sq_top"] < last["semi_gradient_sq"]


def test_a_method_without_second_moment_has_no_norm_of_one(tmp_path):
    config = msgspec.structs.replace(frozen(None), method=RECIPES["gd"](lr=0.1))
    assert all(math.isnan(norm) for norm in tr.run(config, out=tmp_path / "run").measurements["second_moment_norm"])
