"""The loop: what it trains, what it stores, and how it ends."""

from __future__ import annotations

import math
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

import tightrope as tr
from tightrope.errors import ConfigError
from tightrope.optim import RECIPES, GlobalNormClip, SharpnessAware, StepDecay, WarmupStableDecay
from tightrope.problems import Chebyshev, Digits, Quadratic
from tightrope.training import MeasureConfig, RunConfig, StopConfig
from tightrope.views import comparison


def quadratic(lr, curvatures=(1.0,), start=(1.0,), **more):
    settings = {"method": RECIPES["gd"](lr=lr), "num_steps": 40, "dtype": "float64", **more}
    return RunConfig(problem=Quadratic(curvatures=curvatures, start=start), **settings)


def small_digits(**more):
    settings = {"method": RECIPES["adam"](lr=1e-3), "num_steps": 12, "measure": MeasureConfig(every=5), **more}
    return RunConfig(problem=Digits(hidden=(8,), num_examples=60), **settings)


def test_gradient_descent_on_a_quadratic_is_the_closed_form(tmp_path):
    record = tr.run(quadratic(0.3, curvatures=(2.0, 1.0), start=(1.0, -2.0)), out=tmp_path / "run")
    t = np.arange(40)
    expected = (2 * (0.4**t) ** 2 + (-2 * 0.7**t) ** 2) / 2
    np.testing.assert_allclose(record.steps["loss"], expected, rtol=1e-12)
    np.testing.assert_allclose(record.measurements["ratio"], 0.3, rtol=1e-9)
    assert record.outcome == "completed"


def test_the_lecture_example_takes_the_steps_of_the_lecture(tmp_path):
    record = tr.run(quadratic(0.1, curvatures=(10.0, 1.0), start=(1.0, 10.0), num_steps=2), out=tmp_path / "run")
    np.testing.assert_allclose(record.steps["grad_norm"], [math.hypot(10, 10), 9.0], rtol=1e-12)


def test_the_lab_trains_as_torch_does(tmp_path):
    config = small_digits(method=RECIPES["adam"](lr=1e-3), dtype="float64", num_steps=30)
    record = tr.run(config, out=tmp_path / "run")
    problem = config.problem.build(0, torch.float64)
    optimizer = torch.optim.Adam(problem.model.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        problem.gradient.zero_()
        loss = problem.loss_fn(problem.model, problem.batch)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    np.testing.assert_allclose(record.steps["loss"], losses, rtol=1e-10)


def test_the_same_configuration_gives_the_same_run(tmp_path):
    config = small_digits(batch_size=16)
    first, second = (tr.run(config, out=tmp_path / name) for name in "ab")
    np.testing.assert_array_equal(first.steps["loss"], second.steps["loss"])
    np.testing.assert_array_equal(first.measurements["ratio"], second.measurements["ratio"])
    other = tr.run(small_digits(batch_size=16, seed=1), out=tmp_path / "c")
    assert not np.array_equal(first.steps["loss"], other.steps["loss"])


def test_measuring_does_not_change_training(tmp_path):
    measured = tr.run(small_digits(measure=MeasureConfig(every=1)), out=tmp_path / "a")
    blind = tr.run(small_digits(measure=MeasureConfig(every=0)), out=tmp_path / "b")
    np.testing.assert_array_equal(measured.steps["loss"], blind.steps["loss"])
    assert len(blind.measurements["step"]) == 0
    assert blind.verdict["words"] == "Adam was not measured."


def test_a_run_does_not_touch_the_global_random_state(tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    tr.run(small_digits(), out=tmp_path / "a")
    tr.run(RunConfig(problem=Chebyshev(), method=RECIPES["gd"](lr=0.1), num_steps=2), out=tmp_path / "b")
    assert torch.equal(before, torch.get_rng_state())


def test_steps_measured_are_the_first_the_cadence_and_the_last(tmp_path):
    record = tr.run(small_digits(), out=tmp_path / "run")
    np.testing.assert_array_equal(record.measurements["step"], [1, 5, 10, 12])
    np.testing.assert_array_equal(record.steps["step"], np.arange(1, 13))


def test_minibatches_cover_each_epoch_once_in_a_new_order(tmp_path):
    # Four examples with curvatures 1, 2, 4, 8 and batches of one: each loss names its example.
    class Rows:
        num_examples = 4
        rows = staticmethod(lambda index: index.tolist())

    from tightrope.training.batches import Batches

    batches = Batches(Rows(), 1, seed=0)
    epochs = [[batches.next()[0] for _ in range(4)] for _ in range(6)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_run_above_the_threshold_ends_as_diverged_with_everything_stored(tmp_path):
    record = tr.run(quadratic(2.5, num_steps=500), out=tmp_path / "run")
    assert record.outcome == "diverged"
    assert record.verdict["name"] == "unstable"
    assert record.steps["loss"][-1] > 1e6 * record.steps["loss"][0]
    assert len(record.steps["step"]) == record.end["step"] < 500


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(tmp_path, bad, monkeypatch):
    build = Quadratic.build

    def broken(self, seed, dtype):
        problem = build(self, seed, dtype)
        return replace(problem, loss_fn=lambda model, batch: problem.loss_fn(model, batch) * bad)

    monkeypatch.setattr(Quadratic, "build", broken)
    record = tr.run(quadratic(0.1), out=tmp_path / "run")
    assert record.outcome == "diverged"
    assert not np.isfinite(record.steps["loss"][0])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 38e3),
        ({"schedule": WarmupStableDecay(num_warmup=1, num_stable=1, num_decay=1)}, None),
        ({"sam": SharpnessAware(every=2)}, None),
        ({"clipping": GlobalNormClip(1.0)}, None),
        ({"method": RECIPES["nadam"](lr=1e-3, momentum_decay=4e-3)}, None),
    ],
)
def test_the_start_names_a_threshold_only_where_one_holds_all_along(tmp_path, change, expected):
    record = tr.run(small_digits(num_steps=1, **change), out=tmp_path / "run")
    assert record.start["threshold"] == (expected if expected is None else pytest.approx(expected))
    (row,) = comparison([record])
    if "sam" in change or "clipping" in change:
        assert row["edge"] is None
    else:
        assert row["edge"] == pytest.approx(record.measurements["threshold"][-1])


def test_a_gradient_that_is_not_finite_ends_the_run_before_its_step(tmp_path, monkeypatch):
    build, problems = Quadratic.build, []

    def broken(self, seed, dtype):
        problem = build(self, seed, dtype)
        # sqrt(0) has the value 0 and the slope infinity, times 0: NaN.
        loss_fn = lambda model, batch: problem.loss_fn(model, batch) + (0 * model().sum()).abs().sqrt()  # noqa: E731
        problems.append(problem)
        return replace(problem, loss_fn=loss_fn)

    monkeypatch.setattr(Quadratic, "build", broken)
    record = tr.run(quadratic(0.1), out=tmp_path / "run")
    assert (record.outcome, record.end["step"]) == ("diverged", 1)
    assert np.isfinite(record.steps["loss"][0])
    assert not np.isfinite(record.steps["grad_norm"][0])
    assert problems[0].w.tolist() == [1.0]


def test_held_out_data_are_looked_at_when_a_run_ends(tmp_path, monkeypatch):
    build = Digits.build

    def with_test(self, seed, dtype):
        problem = build(self, seed, dtype)
        return replace(problem, test_batch=tuple(part[:20] for part in problem.batch))

    monkeypatch.setattr(Digits, "build", with_test)
    record = tr.run(small_digits(num_steps=40, method=RECIPES["gd"](lr=0.05)), out=tmp_path / "run")
    problem = with_test(Digits(hidden=(8,), num_examples=60), 0, torch.float32)
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.05)
    for _ in range(40):
        problem.gradient.zero_()
        problem.loss_fn(problem.model, problem.batch).backward()
        optimizer.step()
    inputs, targets = problem.test_batch
    wrong = sum(
        int(row.argmax()) != int(target.argmax()) for row, target in zip(problem.model(inputs), targets, strict=True)
    )
    assert record.test == {
        "num_examples": 20,
        "loss": pytest.approx(problem.loss_fn(problem.model, problem.test_batch).item(), rel=1e-4),
        "error": wrong / 20,
    }
    assert 0 < wrong < 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 10.0}, "num_steps: Expected `int`, got `float`"),
        ({"num_steps": np.int64(10), "method": RECIPES["gd"](lr=np.float64(0.1))}, None),
        ({"num_steps": torch.tensor(10)}, None),
        ({"seed": -5}, "seed: Expected `int` >= 0"),
        ({"seed": 2**63}, "seed: "),
        ({"batch_size": 1.5}, "batch_size: Expected `int"),
        ({"measure": MeasureConfig(every=-1)}, "measure.every: Expected `int` >= 0"),
        ({"measure": MeasureConfig(every=2.5)}, "measure.every: Expected `int`"),
        ({"measure": None}, "measure: must be a value"),
        ({"schedule": "cosine"}, "schedule: must be a value"),
        ({"clipping": "value"}, "clipping: must be a value"),
        ({"method": RECIPES["gd"](lr="0.1")}, "method.lr: must be positive and finite; got '0.1'"),
        ({"stop": StopConfig(loss=float("nan"))}, "stop.loss: numbers must be at most"),
        ({"curvatures": (float("nan"),)}, "problem.curvatures: numbers must be at most"),
        ({"start": (float("inf"),)}, "problem.start: numbers must be at most"),
        ({"schedule": StepDecay(every=10**400)}, "schedule.every: numbers must be at most"),
        ({"dtype": object()}, "values must be plain numbers"),
    ],
)
def test_what_could_not_be_resumed_is_refused_before_anything_is_written(tmp_path, change, message):
    if message is None:
        record = tr.run(quadratic(**{"lr": 0.1, **change}), out=tmp_path / "run")
        assert len(record.steps["step"]) == 10
        return
    with pytest.raises(ConfigError, match=re.escape(message)):
        tr.run(quadratic(**{"lr": 0.1, **change}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_runs_that_begin_at_once_take_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both = threading.Barrier(4)

    def go():
        both.wait()
        tr.run(quadratic(0.1, num_steps=2), name="mine")

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"mine", "mine-2", "mine-3", "mine-4"}
    assert all(tr.read_run(path).outcome == "completed" for path in (tmp_path / "runs").iterdir())


def test_a_target_loss_ends_the_run(tmp_path):
    record = tr.run(quadratic(0.5, stop=StopConfig(loss=0.01)), out=tmp_path / "run")
    assert record.outcome == "target_loss"
    assert record.steps["loss"][-1] <= 0.01 < record.steps["loss"][-2]
    assert record.measurements["step"][-1] == record.steps["step"][-1]


def test_an_interrupt_ends_the_run_cleanly(tmp_path):
    def press(progress):
        if progress.step == 7:
            raise KeyboardInterrupt

    record = tr.run(quadratic(0.1), out=tmp_path / "run", observe=press)
    assert record.outcome == "interrupted"
    assert record.end["step"] == 7
    assert len(record.steps["step"]) == 7
    assert record.verdict


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(tr.errors.ConfigError, match="at most the 60 examples; got 61"):
        tr.run(small_digits(batch_size=61), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_path_gets_a_new_one_each_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [tr.run(quadratic(0.1, num_steps=1)).path for _ in range(3)]
    assert [path.name for path in paths] == ["quadratic-gd", "quadratic-gd-2", "quadratic-gd-3"]


def test_the_start_event_says_what_the_run_was_made_with(tmp_path):
    start = tr.run(small_digits(), out=tmp_path / "run").start
    assert start["versions"]["torch"] == torch.__version__
    assert start["threshold"] == pytest.approx(38e3)
    assert start["num_parameters"] == 64 * 8 + 8 + 80 + 10
    assert start["num_examples"] == 60


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gd", {"lr": 0.2}),
        ("heavyball", {"lr": 0.2, "beta1": 0.5}),
        ("nesterov", {"lr": 0.06}),
        ("rmsprop", {"lr": 1e-3}),
        ("adam", {"lr": 1e-3}),
        ("adamw", {"lr": 1e-3}),
        ("adagrad", {"lr": 0.05}),
        ("amsgrad", {"lr": 1e-3}),
        ("padam", {"lr": 1e-2}),
        ("nadam", {"lr": 1e-3}),
        ("adafactor", {"lr": 1e-3}),
        ("custom", {"lr": 0.1}),
    ],
)
def test_every_method_trains_and_is_measured(tmp_path, name, options):
    config = RunConfig(
        problem=Chebyshev(width=10),
        method=RECIPES[name](**options),
        num_steps=30,
        dtype="float64",
        measure=MeasureConfig(every=10),
    )
    record = tr.run(config, out=tmp_path / "run")
    assert record.steps["loss"][-1] < record.steps["loss"][0]
    assert np.isfinite(record.measurements["ratio"]).all()
    assert record.measurements["threshold"] == pytest.approx(config.method.stability_threshold())


def test_a_schedule_sets_the_learning_rate_of_every_step_and_the_threshold_follows(tmp_path):
    schedule = WarmupStableDecay(num_warmup=4, num_stable=4, num_decay=4)
    config = quadratic(0.2, num_steps=12, schedule=schedule, measure=MeasureConfig(every=1))
    record = tr.run(config, out=tmp_path / "run")
    expected = 0.2 * np.array([schedule(step) for step in range(12)])
    np.testing.assert_allclose(record.steps["lr"], expected)
    np.testing.assert_allclose(record.measurements["threshold"], 2 / expected)
    np.testing.assert_allclose(record.measurements["ratio"], expected / 2, rtol=1e-9)


def test_a_loss_that_starts_at_zero_may_fall_below_it(tmp_path):
    record = tr.run(quadratic(0.1, curvatures=(1.0, -1.0), start=(1.0, 1.0), num_steps=5), out=tmp_path / "run")
    assert record.outcome == "completed"
    assert record.steps["loss"][-1] < 0


def test_a_first_loss_that_is_infinite_is_a_divergence(tmp_path):
    config = quadratic(0.1, start=(1e30,), dtype="float32", num_steps=2)
    assert tr.run(config, out=tmp_path / "run").outcome == "diverged"
