"""BatchNorm: measured without a trace, in evaluation mode on held-out data, and resumed bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tightrope as tr
from tightrope.optim import RECIPES, freeze
from tightrope.problems import Digits
from tightrope.stability import Probe
from tightrope.store import read_events
from tightrope.training import MeasureConfig, RunConfig, resume

SMALL = Digits(model="wrn_bn", channels=(2, 3), num_examples=24, num_test_examples=12, loss="cross_entropy")


def trained(problem, num_steps=3, lr=1e-2):
    """An Adam that has taken a few steps, statistics gathered on the way."""
    optimizer = torch.optim.Adam(problem.model.parameters(), lr=lr)
    for _ in range(num_steps):
        problem.gradient.zero_()
        problem.loss_fn(problem.model, problem.batch).backward()
        optimizer.step()
    return optimizer


def buffers(problem):
    return {name: buffer.clone() for name, buffer in problem.model.named_buffers()}


def dense_hessian(problem):
    """By central differences of the gradient, in float64."""
    w, columns = problem.w.detach().clone(), []
    for i in range(w.numel()):
        gradients = []
        for sign in (1, -1):
            with torch.no_grad():
                problem.w.copy_(w)[i] += sign * 1e-5
            problem.gradient.zero_()
            problem.loss_fn(problem.model, problem.batch).backward()
            gradients.append(problem.gradient.clone())
        columns.append((gradients[0] - gradients[1]) / 2e-5)
    with torch.no_grad():
        problem.w.copy_(w)
    return torch.stack(columns)


def test_a_measurement_is_that_of_the_dense_hessian_with_batch_statistics():
    problem = SMALL.build(0, torch.float64)
    optimizer = trained(problem)
    found = tr.measure(problem.model, optimizer, problem.loss_fn, problem.batch, rtol=1e-6, max_products=200)
    D = freeze(optimizer).D.sqrt()
    H = dense_hessian(problem)
    assert found.ratio == pytest.approx(float(torch.linalg.eigvalsh(D[:, None] * (H + H.T) / 2 * D)[-1]), rel=1e-5)
    assert found.sharpness == pytest.approx(float(torch.linalg.eigvalsh((H + H.T) / 2)[-1]), rel=1e-5)


def test_measuring_leaves_statistics_and_modes_bit_for_bit_as_they_were():
    problem = SMALL.build(0, torch.float32)
    optimizer = trained(problem)
    problem.model[0].eval()
    before, modes = buffers(problem), [part.training for part in problem.model.modules()]
    probe = Probe(problem.model, problem.loss_fn)
    for _ in range(2):
        assert probe.measure(optimizer, problem.batch).status == "converged"
    tr.measure(problem.model, optimizer, problem.loss_fn, problem.batch)
    after = buffers(problem)
    assert sum(name.endswith("running_mean") for name in after) == 5
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [part.training for part in problem.model.modules()] == modes


def test_held_out_data_meet_the_statistics_that_training_gathered():
    problem = SMALL.build(0, torch.float64)
    trained(problem, num_steps=20)
    problem.model[0].eval()
    before, modes = buffers(problem), [part.training for part in problem.model.modules()]
    said = problem.test()
    assert all(torch.equal(buffer, before[name]) for name, buffer in buffers(problem).items())
    assert [part.training for part in problem.model.modules()] == modes
    inputs, labels = problem.test_batch
    problem.model.eval()
    logits = problem.model(inputs).detach()
    assert said["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-12)
    assert said["error"] == float((logits.argmax(1) != labels).double().mean())
    problem.model.train()
    with_their_own_statistics = problem.loss_fn(problem.model, problem.test_batch).item()
    assert said["loss"] != pytest.approx(with_their_own_statistics, rel=1e-3)


def test_held_out_data_of_any_number_are_looked_at_in_parts(monkeypatch):
    problem = Digits(model="wrn_bn", channels=(2, 3), num_examples=24, num_test_examples=11).build(0, torch.float64)
    trained(problem)
    whole = problem.test()
    monkeypatch.setattr("tightrope.problems.problem.NUM_AT_ONCE", 3)
    assert problem.test() == pytest.approx(whole, rel=1e-12)


def test_a_run_with_batch_norm_is_resumed_bit_for_bit(tmp_path):
    config = RunConfig(
        problem=SMALL,
        method=RECIPES["adam"](lr=1e-2),
        num_steps=12,
        measure=MeasureConfig(every=4),
        checkpoint_seconds=0,
    )

    def interrupt(progress):
        if progress.step == 7:
            raise KeyboardInterrupt

    whole = tr.run(config, out=tmp_path / "whole")
    tr.run(config, out=tmp_path / "stopped", observe=interrupt)
    resumed = resume(tmp_path / "stopped")
    for name in ("loss", "grad_norm"):
        assert resumed.steps[name].tolist() == whole.steps[name].tolist()
    for name in ("ratio", "sharpness"):
        assert resumed.measurements[name].tolist() == whole.measurements[name].tolist()
    assert resumed.test == whole.test
    kinds = [event["type"] for event in read_events(tmp_path / "stopped")]
    assert kinds.count("resumed") == 1
