"""What a run puts around its method: SAM's ascent, clipping, averages over restarts."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import safetensors.torch
import torch

import tightrope as tr
from tightrope.errors import ConfigError
from tightrope.optim import (
    RECIPES,
    GlobalNormClip,
    SharpnessAware,
    UnitClip,
    ValueClip,
    WarmRestarts,
    freeze,
)
from tightrope.problems import Chebyshev, Digits, Quadratic
from tightrope.store import EVENTS
from tightrope.training import MeasureConfig, RunConfig, from_mapping, override, resume

from .test_resume import events_of, kill_at


def chebyshev(**more):
    settings = {"method": RECIPES["gd"](lr=0.1), "num_steps": 30, "dtype": "float64", **more}
    return RunConfig(problem=Chebyshev(width=10), measure=MeasureConfig(every=10), checkpoint_seconds=0, **settings)


def parabola(lr, **more):
    settings = {"method": RECIPES["gd"](lr=lr), "num_steps": 20, "dtype": "float64", **more}
    return RunConfig(
        problem=Quadratic(curvatures=(1.0, 0.5), start=(3.0, 4.0)), measure=MeasureConfig(every=1), **settings
    )


# SAM


def test_the_lab_takes_the_steps_of_sam(tmp_path):
    config = chebyshev(method=RECIPES["adam"](lr=1e-2), sam=SharpnessAware(rho=0.1))
    record = tr.run(config, out=tmp_path / "run")
    problem = config.problem.build(0, torch.float64)
    base = torch.optim.Adam(problem.model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        g = torch.autograd.grad(loss := problem.loss_fn(problem.model, problem.batch), problem.parameters)
        norm = torch.cat([part.reshape(-1) for part in g]).norm()
        with torch.no_grad():
            former = problem.w.clone()
            for w, part in zip(problem.parameters, g, strict=True):
                w += 0.1 * part / norm
        problem.gradient.zero_()
        problem.loss_fn(problem.model, problem.batch).backward()
        with torch.no_grad():
            problem.w.copy_(former)
        base.step()
        losses.append(loss.item())
    np.testing.assert_allclose(record.steps["loss"], losses, rtol=1e-9)


def test_a_measurement_under_sam_is_of_the_bent_hessian_and_says_so(tmp_path):
    record = tr.run(parabola(0.5, sam=SharpnessAware(rho=0.1)), out=tmp_path / "run")
    first = {name: column[0] for name, column in record.measurements.items()}
    c = 0.1 / math.hypot(3.0, 2.0)
    assert first["ratio"] == pytest.approx((1 + c) / 4)
    assert first["condition"] == f"the ascent held at {c:.3g} times the gradient"
    assert first["condition"] in first["words"]
    assert "could grow" not in first["words"]
    assert record.start["method"] == "Gradient descent with SAM(rho=0.1)"
    assert record.start["traits"]["step_size"] == "as its base, with gradients from uphill"


def test_micro_batches_ascend_each_on_their_own(tmp_path):
    def losses(**sam):
        config = RunConfig(
            problem=Digits(hidden=(8,), num_examples=40),
            method=RECIPES["gd"](lr=0.1),
            num_steps=5,
            dtype="float64",
            sam=SharpnessAware(rho=0.5, **sam) if sam else None,
            measure=MeasureConfig(every=0),
        )
        return config, tr.run(config, out=tmp_path / str(sam)).steps["loss"]

    config, two = losses(micro_batches=2)
    _, one = losses(micro_batches=1)
    problem = config.problem.build(0, torch.float64)
    mean = []
    for half in ((slice(0, 20)), slice(20, 40)):
        batch = tuple(part[half] for part in problem.batch)
        g = torch.autograd.grad(problem.loss_fn(problem.model, batch), problem.parameters)
        flat = torch.cat([part.reshape(-1) for part in g])
        with tr.parameters.weights_at(problem.parameters, problem.w.detach() + 0.5 * flat / flat.norm()):
            g = torch.autograd.grad(problem.loss_fn(problem.model, batch), problem.parameters)
        mean.append(torch.cat([part.reshape(-1) for part in g]) / 2)
    after = problem.w.detach() - 0.1 * sum(mean)
    with tr.parameters.weights_at(problem.parameters, after):
        expected = problem.loss_fn(problem.model, problem.batch).item()
    assert two[1] == pytest.approx(expected, rel=1e-12)
    assert two[0] == pytest.approx(one[0], rel=1e-12)
    assert two[1] != pytest.approx(one[1], rel=1e-6)


def test_micro_batches_must_divide_the_batch(tmp_path):
    with pytest.raises(ConfigError, match=r"sam.micro_batches: must divide the 20 examples"):
        tr.run(chebyshev(sam=SharpnessAware(micro_batches=3)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# Clipping


@pytest.mark.parametrize(("max_norm", "factor"), [(1.0, 1 / math.hypot(3, 2)), (100.0, 1.0)])
def test_the_global_norm_is_clipped_and_the_edge_is_of_the_clipped_step(tmp_path, max_norm, factor):
    record = tr.run(parabola(0.5, clipping=GlobalNormClip(max_norm)), out=tmp_path / "run")
    assert record.steps["grad_norm"][0] == pytest.approx(math.hypot(3, 2))
    x, y = 3 - 0.5 * 3 * factor, 4 - 0.5 * 2 * factor
    assert record.steps["loss"][1] == pytest.approx((x**2 + y**2 / 2) / 2)
    assert record.steps["clipped"][0] == (factor < 1)
    first = {name: column[0] for name, column in record.measurements.items()}
    assert first["ratio"] == pytest.approx(factor / 4)
    assert first["threshold"] == pytest.approx(4)
    assert first["condition"] == (f"clipping held at its factor {factor:.3g}" if factor < 1 else "")
    assert f"clipping acted on {int(record.steps['clipped'].sum())} of 20 steps" in record.verdict["clipping"]


def test_the_conditional_edge_is_where_the_held_clipping_diverges():
    for times in (0.99, 1.01):
        w = torch.nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
        h = torch.tensor([1.0, 0.5], dtype=torch.float64)
        optimizer = tr.optim.SGD([w], lr=1.0, momentum=0.5)
        w.grad = h * w.detach()
        clipped = ValueClip(2.5)([w])
        frozen = freeze(optimizer).clipped(clipped)
        held = torch.as_tensor(clipped.factor)
        assert held.tolist() == [0.0, 1.0]
        # The first coordinate is clipped, so it no longer answers: only the second has an edge.
        D = frozen.D * held
        lr = times / float((D * h).max())
        optimizer.param_groups[0]["lr"] = lr
        for _ in range(2000):
            w.grad = held * (h * w.detach())
            optimizer.step()
        assert (w[1].abs() > 1) == (times > 1)


def test_the_probe_measures_the_response_of_a_clipping_by_value(tmp_path):
    record = tr.run(parabola(0.5, clipping=ValueClip(2.5)), out=tmp_path / "run")
    first = {name: column[0] for name, column in record.measurements.items()}
    assert first["ratio"] == pytest.approx(0.5 / 4)
    assert first["condition"] == "clipping held on the 1 of 2 units it acted on"


def test_coupled_decay_is_not_clipped(tmp_path):
    method = RECIPES["adam"](lr=0.5, weight_decay=0.2, beta1=0.0)
    plain = tr.run(parabola(0.5, method=method), out=tmp_path / "a").measurements["ratio"][0]
    half = tr.run(parabola(0.5, method=method, clipping=GlobalNormClip(math.hypot(3, 2) / 2)), out=tmp_path / "b")
    # P differs as well, since Adam's second moment is of the clipped gradient with decay; take that from its own step.
    g = np.array([3.0, 2.0])
    w = np.array([3.0, 4.0])

    def ratio(factor):
        P = np.abs(factor * g + 0.2 * w) + 1e-8
        return max(0.5 * (factor * np.array([1.0, 0.5]) + 0.2) / (2 * P))

    assert plain == pytest.approx(ratio(1.0))
    assert half.measurements["ratio"][0] == pytest.approx(ratio(0.5))


def test_clipping_per_unit_sees_the_shapes_behind_the_flat_vector(tmp_path):
    config = chebyshev(clipping=UnitClip(factor=0.01))
    record = tr.run(config, out=tmp_path / "run")
    problem = config.problem.build(0, torch.float64)
    problem.loss_fn(problem.model, problem.batch).backward()
    clipped = UnitClip(factor=0.01)(problem.parameters)
    assert 0 < clipped.num_clipped < clipped.num_units
    assert record.steps["clipped"][0] == clipped.num_clipped / clipped.num_units


# Averages


def test_weights_are_averaged_where_cycles_end(tmp_path):
    config = parabola(0.5, schedule=WarmRestarts(period=5, growth=1.0), average_restarts=True, num_steps=17)
    record = tr.run(config, out=tmp_path / "run")
    w, ends = np.array([3.0, 4.0]), []
    for step in range(17):
        w = w - 0.5 * config.schedule(step) * np.array([1.0, 0.5]) * w
        if step in (4, 9, 14):
            ends.append(w)
    mean = np.mean(ends, axis=0)
    assert record.average["count"] == 3
    assert record.average["loss"] == pytest.approx((mean**2 @ np.array([1.0, 0.5])) / 2)
    stored = safetensors.torch.load_file(tmp_path / "run" / "arrays" / "average.safetensors")
    np.testing.assert_allclose(stored["w"].numpy(), mean, rtol=1e-12)


def test_averaging_needs_restarts():
    with pytest.raises(ConfigError, match="needs a schedule with restarts"):
        parabola(0.5, average_restarts=True)


# All of it together


EVERYTHING = {
    "clipping by norm": {"clipping": GlobalNormClip(0.05)},
    "clipping per unit": {"clipping": UnitClip(0.05)},
    "SAM": {"sam": SharpnessAware(rho=0.05)},
    "ASAM, sparse": {"sam": SharpnessAware(rho=0.05, adaptive=True, sparsity=0.5)},
    "mSAM, every other step": {"sam": SharpnessAware(rho=0.05, micro_batches=2, every=2)},
    "averages": {"schedule": WarmRestarts(period=4, growth=1.5), "average_restarts": True},
    "all": {
        "clipping": GlobalNormClip(0.05),
        "sam": SharpnessAware(rho=0.05),
        "schedule": WarmRestarts(period=4),
        "average_restarts": True,
        "method": RECIPES["adafactor"](lr=1e-3),
    },
}


@pytest.mark.parametrize("more", EVERYTHING.values(), ids=EVERYTHING)
def test_whatever_is_around_the_method_survives_a_kill_and_its_own_toml(tmp_path, more):
    config = chebyshev(**more)
    tr.run(config, out=tmp_path / "whole")
    again = from_mapping(tr.read_run(tmp_path / "whole").config)
    assert again == config
    kill_at(config, tmp_path / "run", 13)
    resume(tmp_path / "run")
    assert events_of(tmp_path / "run") == events_of(tmp_path / "whole")
    assert np.isfinite(tr.read_run(tmp_path / "run").steps["loss"]).all()
    averages = [tmp_path / name / "arrays" / "average.safetensors" for name in ("run", "whole")]
    if averages[0].exists():
        assert averages[0].read_bytes() == averages[1].read_bytes()


def test_settings_reach_the_tables_around_the_method():
    mapping = override(
        {"problem": {"name": "quadratic"}, "method": {"name": "gd", "lr": 0.1}},
        [
            "every=5",
            "rho=0.2",
            "clipping=global_norm",
            "max_norm=3.0",
            "sam.every=2",
            "schedule=warm_restarts",
            "period=7",
        ],
    )
    config = from_mapping(mapping)
    assert config.measure.every == 5
    assert config.sam == SharpnessAware(rho=0.2, every=2)
    assert config.clipping == GlobalNormClip(3.0)
    assert config.schedule == WarmRestarts(period=7)
    with pytest.raises(ConfigError, match=r"could mean sam\.every or measure\.every"):
        override(mapping, ["every=3"])


def test_clipping_is_told_at_the_end_of_a_command(tmp_path, capsys, monkeypatch):
    from tightrope.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["run", "bowl", "--set", "clipping=global_norm", "--set", "max_norm=0.5", "--out", "run"])
    assert "Clipped: clipping acted on" in capsys.readouterr().out
    events = [json.loads(line) for line in (tmp_path / "run" / EVENTS).read_text().splitlines()]
    assert "clipping" in next(event for event in events if event["type"] == "verdict")


def test_a_report_tells_what_stood_around_the_method(tmp_path):
    from tightrope.views import comparison, write_report

    config = chebyshev(clipping=GlobalNormClip(0.05), schedule=WarmRestarts(period=4), average_restarts=True)
    kill_at(config, tmp_path / "run", 13)
    record = resume(tmp_path / "run")
    page = write_report([record], tmp_path / "report.html").read_text()
    assert "Clipping acted on" in page
    assert f"The average of {record.average['count']} restart ends has loss" in page
    assert "The run was taken up again 1 time after a stop." in page
    assert comparison([record])[0]["name"] == "gd + clipping"


# The response of a clipping, wherever its parameters lie


def half_clipped():
    """Two layers; value clipping acts on two elements of the second."""
    a, b = (torch.nn.Parameter(torch.ones(n, dtype=torch.float64)) for n in (3, 2))
    a.grad, b.grad = torch.full_like(a, 0.1), torch.full_like(b, 9.0)
    return a, b


def test_a_response_follows_its_parameters_into_any_order_of_groups():
    a, b = half_clipped()
    frozen = freeze(tr.optim.SGD([b, a], lr=0.1))
    assert frozen.clipped(ValueClip(1.0)([a, b])).response.tolist() == [0, 0, 1, 1, 1]


def test_a_clipping_of_some_parameters_leaves_the_others_alone():
    a, b = half_clipped()
    frozen = freeze(tr.optim.SGD([a, b], lr=0.1))
    held = frozen.clipped(GlobalNormClip(math.sqrt(162) / 2)([b]))
    assert held.response.tolist() == pytest.approx([1, 1, 1, 0.5, 0.5])
    assert frozen.clipped(ValueClip(1.0)([b])).response.tolist() == [1, 1, 1, 0, 0]


def test_parameters_the_optimizer_does_not_move_do_not_matter():
    a, b = half_clipped()
    frozen = freeze(tr.optim.SGD([b], lr=0.1))
    assert frozen.clipped(ValueClip(1.0)([a, b])).response.tolist() == [0, 0]
    a.grad = torch.full_like(a, 9.0)
    with pytest.raises(tr.errors.ShapeError, match="the optimizer must move what was clipped"):
        frozen.clipped(ValueClip(1.0)([a]))


def test_two_clippings_multiply():
    a, b = half_clipped()
    frozen = freeze(tr.optim.SGD([a, b], lr=0.1))
    norm = GlobalNormClip(1.0)([a, b])
    twice = frozen.clipped(norm).clipped(norm)
    assert twice.response == pytest.approx(norm.factor**2)
    assert twice.condition.count("clipping held") == 2


def test_views_of_one_flat_parameter_are_found_where_they_lie():
    model = torch.nn.Linear(3, 2).double()
    w = tr.parameters.share_storage(model)
    model.bias.grad[:] = 9.0
    frozen = freeze(tr.optim.SGD([w], lr=0.1))
    assert frozen.clipped(ValueClip(1.0)([model.bias])).response.tolist() == [1.0] * 6 + [0.0] * 2


def test_a_step_that_is_clipped_everywhere_is_not_said_to_have_no_curvature(tmp_path):
    record = tr.run(parabola(0.5, clipping=ValueClip(1e-3)), out=tmp_path / "run")
    assert record.measurements["ratio"][0] == 0
    assert "no positive curvature" not in record.measurements["words"][0]
    assert record.measurements["verdict"][0] == "stable"
