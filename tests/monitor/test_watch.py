"""`watch` in loops of other people: what it finds, and that it leaves no trace."""

from __future__ import annotations

import gc
import json
import math
import weakref

import pytest
import torch
from torch import nn

import tightrope as tr
from tightrope.cli import main
from tightrope.monitor import watch
from tightrope.monitor.schedule import Schedule
from tightrope.stability import Probe
from tightrope.store import read_events, read_run

from .loops import (
    Unwatched,
    assert_equal,
    batches,
    busy_loop,
    cross_entropy,
    half_square,
    network,
    plain_loop,
    state_of,
)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def events(path, kind):
    return [event for event in read_events(path) if event["type"] == kind]


def trained(num_steps, *, model=None, optimizer=None, loss_fn=cross_entropy, stream=None, **settings):
    """A loop of so many steps under watch; the watcher is closed."""
    model = model or network()
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-2)
    watcher = watch(model, optimizer, loss_fn, run_dir="run", **settings)
    for batch in stream or batches(num_steps):
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        optimizer.step()
        watcher.step(batch, loss)
    watcher.close()
    return watcher


@pytest.mark.parametrize("loop", [plain_loop, busy_loop])
@pytest.mark.parametrize("settings", [{"every": 1}, {"every": 3, "probe": 40}, {"budget": 0.5}])
def test_a_watched_run_is_bit_for_bit_the_unwatched_one(loop, settings):
    alone = state_of(*loop(Unwatched))
    watched = state_of(*loop(lambda *args, **kwargs: watch(*args, **{**kwargs, **settings})))
    assert_equal(watched, alone)


def test_readings_really_happen_in_the_loops_compared():
    for number, loop in enumerate((plain_loop, busy_loop)):
        loop(lambda *args, n=number, **kwargs: watch(*args, every=3, run_dir=f"run{n}", **kwargs))
        assert len(events(f"run{number}", "measurement")) >= 8


def test_a_reading_is_the_labs_number_at_the_same_state():
    """Hessian at the weights before the step, method as the step left it, as `tightrope run` measures."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = next(batches(1, size=64))
    watcher = watch(model, optimizer, cross_entropy, probe=batch, every=5, run_dir="run")
    for _ in range(20):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        before = torch.cat([w.detach().flatten() for w in model.parameters()])
        optimizer.step()
        watcher.step(batch)
    lab = Probe(model, cross_entropy, rtol=1e-6).measure(optimizer, batch, w=before)
    watcher.close()
    reading = events("run", "measurement")[-1]
    assert reading["step"] == 20
    assert reading["ratio"] == pytest.approx(lab.ratio, abs=reading["residual"])
    assert reading["sharpness"] == pytest.approx(lab.sharpness, abs=reading["sharpness_residual"])
    assert reading["threshold"] == pytest.approx(lab.threshold)
    assert not reading["is_minibatch"]


def test_the_rate_of_a_reading_is_that_of_its_step_and_the_next_is_told():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    watcher = watch(model, optimizer, cross_entropy, every=1, run_dir="run")
    for batch in batches(3):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
        schedule.step()
        watcher.step(batch)
    watcher.close()
    for i, reading in enumerate(events("run", "measurement")):
        assert reading["lr"] == pytest.approx(0.4 * 0.5**i)
        assert reading["next_lr"] == pytest.approx(0.2 * 0.5**i)
        assert reading["next_ratio"] == pytest.approx(reading["ratio"] / 2)
        assert reading["threshold"] == pytest.approx(2 / reading["lr"])


def test_the_budget_holds_and_spending_it_gives_readings(capsys):
    watcher = trained(1500, budget=0.2, probe=next(batches(1, size=64)))
    end = events("run", "end")[0]
    share = end["measuring_seconds"] / end["seconds"]
    assert 0.02 < share <= 0.205
    assert len(events("run", "measurement")) >= 2
    assert not watcher.is_on
    first, second, *_ = capsys.readouterr().err.splitlines()
    for word in ("AdamW", "edge at 38/lr, now 3,800;", "kept graph", "at most 0.2 of the process time", "-> run"):
        assert word in first
    assert "64 examples" in second


@pytest.mark.parametrize(
    ("lrs", "words"),
    [
        ((0.03,), "SGD, edge at 2/lr, now 66.67; kept graph; a reading every step; -> run"),
        ((1.2345678e-5,), "SGD, edge at 2/lr, now 162,000; "),
        ((0.1, 0.3), "SGD, edge at ratio 1 (its groups have different thresholds); "),
        ((0.0,), "SGD, edge at infinity while lr is 0; "),
    ],
)
def test_the_first_line_gives_the_edge_in_lr_and_what_that_is_now(lrs, words, capsys):
    model = network()
    groups = [{"params": [w], "lr": lr} for w, lr in zip(model.parameters(), 4 * lrs, strict=False)]
    trained(1, model=model, optimizer=torch.optim.SGD(groups, lr=1.0), every=1)
    assert capsys.readouterr().err.startswith(f"tightrope: {words}")


@pytest.mark.parametrize(
    ("probe_size", "share", "words"),
    [
        (32, 1.0, "each reading is of all 32 examples (1.02 kB kept)"),
        (
            256,
            0.125,
            "each reading is of 32 of 256 examples (8.19 kB kept), so few that they tend to overstate the shar",
        ),
        (256, 0.25, "each reading is of 64 of 256 examples (8.19 kB kept)\n"),
        (None, 1.0, "each reading is of all 32 examples of its step's own batch"),
    ],
)
def test_the_second_line_says_what_is_read_and_warns_of_few_examples(probe_size, share, words, capsys, monkeypatch):
    settle = Schedule.settle

    def cut(schedule, *arguments):
        settle(schedule, *arguments)
        schedule.share = share

    monkeypatch.setattr(Schedule, "settle", cut)
    trained(1, every=1, probe=None if probe_size is None else next(batches(1, size=probe_size)))
    assert f"\ntightrope: {words}" in capsys.readouterr().err


def test_the_run_ends_at_the_last_step_taken_also_where_that_was_not_told(capsys):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, every=2, run_dir="run")
    for step, batch in enumerate(batches(7), start=1):
        cross_entropy(model, batch).backward()
        optimizer.step()
        if step <= 4:
            watcher.step(batch)
    watcher.close()
    assert events("run", "end")[0]["step"] == 7


def test_micro_batches_are_measured_as_their_mean():
    parts = list(batches(4, size=8))
    whole = tuple(torch.cat(side) for side in zip(*parts, strict=True))
    found = []
    for number, batch in enumerate((parts, whole)):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        watcher = watch(model, optimizer, cross_entropy, every=1, run_dir=f"run{number}")
        cross_entropy(model, whole).backward()
        optimizer.step()
        watcher.step(batch)
        watcher.close()
        found += events(f"run{number}", "measurement")
    assert found[0]["ratio"] == pytest.approx(found[1]["ratio"], rel=1e-4)


def test_a_probe_may_be_a_batch_an_iterable_or_a_number_of_examples():
    stream = list(batches(40))
    whole = tuple(torch.cat(side) for side in zip(*stream[:2], strict=True))
    ratios = []
    for number, probe in enumerate((whole, iter(stream[:2]), 64)):
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        watcher = watch(model, optimizer, cross_entropy, probe=probe, every=10, run_dir=f"run{number}")
        for batch in stream:
            optimizer.zero_grad()
            cross_entropy(model, batch).backward()
            optimizer.step()
            watcher.step(batch)
        watcher.close()
        ratios.append([reading["ratio"] for reading in events(f"run{number}", "measurement")])
    assert len(ratios[0]) == 4
    assert ratios[1] == pytest.approx(ratios[0], rel=1e-3)
    assert ratios[2] == pytest.approx(ratios[0], rel=1e-3)


def test_reading_a_probe_from_a_shuffling_loader_draws_nothing_from_the_run():
    data = torch.utils.data.TensorDataset(*next(batches(1, size=64)))
    generator = torch.Generator().manual_seed(5)
    loader = torch.utils.data.DataLoader(data, batch_size=16, shuffle=True, generator=generator)
    before, its = torch.get_rng_state(), generator.get_state()
    model = network()
    watcher = watch(model, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy, probe=loader, run_dir="run")
    assert watcher.is_on
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(generator.get_state(), its)
    watcher.close()


@pytest.mark.parametrize("bad", ["loss", "gradient", "second moment"])
def test_the_first_number_that_is_not_finite_is_named_with_its_step_and_parameter(bad, capsys):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    watcher = watch(model, optimizer, cross_entropy, every=1, run_dir="run")
    for step, batch in enumerate(batches(8), start=1):
        optimizer.zero_grad()
        loss = cross_entropy(model, batch)
        loss.backward()
        if step == 5 and bad == "gradient":
            model[2].weight.grad[0, 0] = math.inf
        if step == 5 and bad == "second moment":
            optimizer.state[model[0].bias]["exp_avg_sq"][3] = math.nan
        optimizer.step()
        watcher.step(batch, loss * math.nan if step >= 5 and bad == "loss" else loss)
    watcher.close()
    found = {event["what"]: event for event in events("run", "not_finite")}
    parameter = {"loss": "", "gradient": "2.weight", "second moment": "0.bias"}[bad]
    assert (found[bad]["step"], found[bad]["parameter"]) == (5, parameter)
    assert f"The {bad}" in capsys.readouterr().err


def test_an_approach_to_the_edge_is_attributed_with_numbers(capsys):
    """A quadratic loss: only the learning rate changes, and it is named for all of it."""
    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    batch = torch.full((4, 1), 2.0), torch.zeros(4, 1)
    watcher = watch(model, optimizer, half_square, probe=batch, every=1, run_dir="run")
    for step in range(30):
        optimizer.param_groups[0]["lr"] = 0.2 if step < 15 else 0.49
        optimizer.zero_grad()
        half_square(model, batch).backward()
        optimizer.step()
        watcher.step(batch)
    watcher.close()
    [cause] = [reading["cause"] for reading in events("run", "measurement") if reading["cause"]]
    assert cause["factors"]["learning rate"] == pytest.approx(0.49 / 0.2)
    assert cause["factors"]["curvature"] == pytest.approx(1)
    assert cause["factors"]["direction"] == pytest.approx(1)
    assert math.prod(cause["factors"].values()) == pytest.approx(cause["after"] / cause["before"])
    assert "the learning rate rose 2.45 times." in capsys.readouterr().err


def test_an_approach_by_a_decaying_second_moment_is_told_from_one_by_curvature():
    model = nn.Linear(1, 1, bias=False).double()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.2, alpha=0.5)
    watcher = watch(model, optimizer, half_square, every=1, run_dir="run")
    x = torch.ones(4, 1, dtype=torch.float64)
    for step in range(60):
        target = 10.0 if step < 20 else 0.1
        batch = x, model(x).detach() + target  # the gradient is the target: P follows it down, H stays 1
        optimizer.zero_grad()
        half_square(model, batch).backward()
        optimizer.step()
        watcher.step(batch)
    watcher.close()
    [cause] = [reading["cause"] for reading in events("run", "measurement") if reading["cause"]][:1]
    assert cause["factors"]["preconditioner"] == pytest.approx(cause["after"] / cause["before"], rel=1e-6)
    assert cause["factors"]["curvature"] == pytest.approx(1)


def test_a_step_that_was_clipped_is_measured_as_clipped():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, every=1, clip_norm=1e-3, run_dir="run")
    for batch in batches(3):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3))
        optimizer.step()
        watcher.step(batch)
    watcher.close()
    reading = events("run", "measurement")[-1]
    assert f"clipping held at its factor {1e-3 / norm:.3g}" in reading["condition"]
    assert reading["ratio"] == pytest.approx(reading["sharpness"] * 0.05 * 1e-3 / norm, rel=0.02)


def test_in_minibatch_training_dead_units_are_kept_out_of_the_headline_and_shown_apart():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        model[0].bias[:4] = -100.0  # four units that never fire: no gradient, and so no second moment
    data = next(batches(1, size=256))
    with torch.no_grad():
        data[0][0] *= 400.0  # but for one example of the probe set
    trained(60, model=model, probe=data, every=20)
    reading = events("run", "measurement")[-1]
    assert reading["is_minibatch"]
    assert reading["num_dormant"] >= 4 * 6
    assert reading["plain_ratio"] > 10 * reading["ratio"]
    assert "dormant coordinates held at 0.1 of the median of P" in reading["condition"]
    assert "Full-batch margin; it understates the danger at small batch." in reading["words"]


def test_a_margin_for_small_batches_comes_with_its_interval():
    trained(4000, budget=0.6, probe=next(batches(1, size=64)))
    margins = [reading for reading in events("run", "measurement") if "minibatch_margin" in reading]
    assert margins
    low, high = margins[-1]["minibatch_margin_interval"]
    assert low <= margins[-1]["minibatch_margin"] <= high
    assert margins[-1]["num_batches"] == 8


def test_nothing_grows_with_the_number_of_steps():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watcher = watch(model, optimizer, cross_entropy, probe=64, budget=0.1, run_dir="run")
    counts, batch = [], next(batches(1))
    for step in range(10_000):
        if step % 5 == 0:
            optimizer.zero_grad()
            loss = cross_entropy(model, batch)
            loss.backward()
        optimizer.step()
        watcher.step(batch, loss)
        if step in (3000, 9999):
            gc.collect()
            counts.append(sum(type(thing) is torch.Tensor for thing in gc.get_objects()))
    watcher.close()
    assert counts[1] <= counts[0] + 40


def test_closing_takes_every_hook_away_and_lets_go_of_the_model():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    hooks = [dict(optimizer._optimizer_step_pre_hooks), dict(optimizer._optimizer_step_post_hooks)]
    watcher = watch(model, optimizer, cross_entropy, every=1, run_dir="run")
    assert len(optimizer._optimizer_step_pre_hooks) == 1
    for batch in batches(3):
        cross_entropy(model, batch).backward()
        optimizer.step()
        watcher.step(batch)
    watcher.close()
    watcher.close()
    watcher.step(batch)
    assert [dict(optimizer._optimizer_step_pre_hooks), dict(optimizer._optimizer_step_post_hooks)] == hooks
    alive = weakref.ref(model)
    del model, optimizer, batch
    gc.collect()
    assert alive() is None


def test_a_pause_is_not_watched():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, every=1, run_dir="run")
    for number, batch in enumerate(batches(6)):

        def step(batch=batch):
            cross_entropy(model, batch).backward()
            optimizer.step()
            watcher.step(batch)

        if number in (2, 3):
            with watcher.pause():
                step()
        else:
            step()
    watcher.pause()
    step()
    watcher.resume()
    watcher.close()
    assert [event["step"] for event in events("run", "step")] == [1, 2, 5, 6]


def test_the_environment_switches_it_off(monkeypatch, tmp_path):
    monkeypatch.setenv("TIGHTROPE", "0")
    watcher = trained(3)
    assert watcher.run_dir is None
    assert list(tmp_path.iterdir()) == []


def test_a_run_can_be_read_reported_and_listed_as_one_of_the_lab():
    trained(60, every=5, probe=next(batches(1, size=64)))
    run = read_run("run")
    assert run.outcome == "closed"
    assert len(run.measurements["ratio"]) == 12
    assert run.verdict["name"]
    json.dumps(run.start)
    assert tr.read_run is read_run


def test_a_run_is_listed_with_its_method_its_rate_and_where_it_is_while_it_runs(capsys):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    watcher = watch(model, optimizer, cross_entropy, every=2, run_dir="runs/mine")
    for batch in batches(5):
        optimizer.zero_grad()
        loss = cross_entropy(model, batch)
        loss.backward()
        optimizer.step()
        watcher.step(batch, loss)
    with pytest.raises(SystemExit):
        main(["runs", "--json"])
    [row] = json.loads(capsys.readouterr().out)
    assert (row["method"], row["lr"], row["outcome"]) == ("AdamW", 1e-2, "unfinished")
    ratios = read_run("runs/mine").measurements["ratio"]
    assert row["steps"] in (4, 5)  # the log is written out at a reading, or after a second
    assert row["ratio"] == ratios[-1]
    watcher.close()


def test_measure_now_is_the_one_shot_number():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    watcher = watch(model, optimizer, cross_entropy, every=100, run_dir="run")
    for batch in batches(5):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
        watcher.step(batch)
    found = watcher.measure(batch)
    truth = tr.measure(model, optimizer, cross_entropy, batch)
    assert found.ratio == pytest.approx(truth.ratio, abs=found.residual + truth.residual)
    watcher.close()
    assert watcher.measure(batch) is None


BAD = {
    "a probe of nothing": ({"probe": 0}, "probe must hold an example or more"),
    "an empty batch": ({"probe": (torch.zeros(0, 6), torch.zeros(0, dtype=torch.long))}, "probe must hold an example"),
    "an empty iterable": ({"probe": iter(())}, "probe must hold an example"),
    "a budget above one": ({"budget": 3}, "budget must be a share"),
    "no budget": ({"budget": 0}, "budget must be a share"),
    "every half": ({"every": 0.5}, "every must be a whole number"),
    "a clip norm below zero": ({"clip_norm": -1.0}, "clip_norm must be above 0"),
    "an unknown sink": ({"sinks": ("nowhere",)}, "sinks"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_setting_is_one_line_and_the_run_goes_on_unwatched(name, capsys):
    settings, words = BAD[name]
    watcher = trained(3, **settings)
    assert not watcher.is_on
    [line] = capsys.readouterr().err.splitlines()
    assert words in line
    assert line.endswith("The run goes on unwatched.")


LOSSES = {
    "another signature": (lambda model, batch, extra: None, "must take (model, batch)"),
    "a vector": (lambda model, batch: model(batch[0]).sum(1), "must return a scalar"),
    "detached": (lambda model, batch: cross_entropy(model, batch).detach(), "must depend on a trainable parameter"),
    "raising": (lambda model, batch: {}["absent"], "KeyError"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_cannot_be_measured_is_one_line_and_the_run_goes_on(name, capsys):
    loss_fn, words = LOSSES[name]
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, loss_fn, every=1, run_dir="run")
    for batch in batches(10):
        cross_entropy(model, batch).backward()
        optimizer.step()
        watcher.step(batch)
    lines = capsys.readouterr().err.splitlines()
    assert words in lines[0]
    assert len(lines) <= 2
    assert lines[-1].endswith("The run goes on unwatched.")


def test_an_optimizer_of_another_model_is_refused_in_one_line(capsys):
    watcher = trained(2, optimizer=torch.optim.SGD(network().parameters(), lr=0.1))
    assert not watcher.is_on
    assert "4 of its 4 are not" in capsys.readouterr().err


def test_a_method_without_threshold_is_refused_with_its_reason(capsys):
    model = network()
    watcher = watch(model, torch.optim.Rprop(model.parameters()), cross_entropy, run_dir="run")
    assert not watcher.is_on
    assert "signs of gradients" in capsys.readouterr().err


def test_no_data_at_all_is_said_at_the_first_step_that_needs_it(capsys):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, run_dir="run")
    for batch in batches(12):
        cross_entropy(model, batch).backward()
        optimizer.step()
        watcher.step()
    assert "Give probe=, or step(batch)" in capsys.readouterr().err
    assert not watcher.is_on


def test_a_keyboard_interrupt_passes():
    def interrupted(model, batch):
        raise KeyboardInterrupt

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, interrupted, every=1, run_dir="run")
    batch = next(batches(1))
    cross_entropy(model, batch).backward()
    optimizer.step()
    with pytest.raises(KeyboardInterrupt):
        watcher.step(batch)


def test_a_full_disk_does_not_stop_the_run(monkeypatch, capsys):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, every=1, run_dir="run")

    def full(*unused):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tightrope.store.writer.os.write", full)
    for batch in batches(6):
        cross_entropy(model, batch).backward()
        optimizer.step()
        watcher.step(batch)
    assert not watcher.is_on
    lines = capsys.readouterr().err.splitlines()
    assert sum("No space left" in line for line in lines) >= 1
    assert len(lines) <= 5


def test_a_layer_frozen_on_the_way_is_left_out_from_then_on():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, every=1, run_dir="run")
    for step, batch in enumerate(batches(8)):
        if step == 4:
            model[0].requires_grad_(False)
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
        watcher.step(batch)
    watcher.close()
    readings = events("run", "measurement")
    assert len(readings) == 8
    assert {layer["name"] for layer in readings[-1]["layers"]} == {"2.weight", "2.bias"}


def test_two_watchers_on_one_optimizer_each_see_every_step():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watchers = [watch(model, optimizer, cross_entropy, every=1, run_dir=f"run{i}") for i in range(2)]
    for batch in batches(4):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
        for watcher in watchers:
            watcher.step(batch)
    for watcher in watchers:
        watcher.close()
    ratios = [[reading["ratio"] for reading in events(f"run{i}", "measurement")] for i in range(2)]
    assert ratios[0] == ratios[1]
    assert len(ratios[0]) == 4


def test_a_step_that_a_gradient_scaler_skips_is_counted_and_not_measured():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, every=1, run_dir="run")
    for number, batch in enumerate(batches(4)):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        if number != 2:
            optimizer.step()
        watcher.step(batch)
    watcher.close()
    assert [reading["step"] for reading in events("run", "measurement")] == [1, 2, 3]
    assert events("run", "end")[0]["num_skipped"] == 1


def test_a_watched_run_is_not_one_to_resume(capsys):
    trained(3, every=1)
    with pytest.raises(tr.errors.StoreError, match="a loop that was watched"):
        tr.training.resume("run")
    with pytest.raises(SystemExit) as end:
        main(["resume", "run"])
    printed = capsys.readouterr().err
    assert end.value.code == 2
    assert printed.splitlines()[-1].startswith("tightrope: resume: run must be a run of tightrope's own")


def test_the_report_of_a_watched_run_tells_what_it_is(tmp_path):
    trained(30, every=7)
    tr.views.write_report([read_run("run")], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "a loop that was watched" in page
    assert "30 steps" in page
    assert "full batch" not in page
