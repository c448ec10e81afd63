"""`watch` in loops that scale, compile, average, move and draw random numbers."""

from __future__ import annotations

import copy
import math
import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import tightrope as tr
from tightrope.curvature import MicroBatches
from tightrope.monitor import watch
from tightrope.monitor.attendance import MAX_UNTOLD
from tightrope.monitor.confinement import confined
from tightrope.monitor.hooks import StepHooks
from tightrope.stability import Probe
from tightrope.store import read_events

from .loops import Everything, Unwatched, assert_equal, batches, cross_entropy, network, state_of


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def events(path, kind):
    return [event for event in read_events(path) if event["type"] == kind]


def taught(model, optimizer, watcher, batch, loss_fn=cross_entropy):
    """One step of a loop."""
    optimizer.zero_grad()
    loss = loss_fn(model, batch)
    loss.backward()
    optimizer.step()
    watcher.step(batch, loss)
    return loss.item()


def weights(model):
    return torch.cat([w.detach().flatten() for w in model.parameters()])


def scaled_loop(watch, *, fused, has_unscale, dtype=torch.bfloat16, num_steps=7):
    """Autocast and a gradient scaler whose fourth step meets an infinity."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    losses, before = [], []
    with watch(model, optimizer, cross_entropy) as watcher:
        for number, batch in enumerate(batches(num_steps)):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=dtype):
                loss = cross_entropy(model, batch)
            scaler.scale(loss).backward()
            if number == 3:
                model[0].weight.grad[0, 0] = math.inf
            if has_unscale:
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 100.0)
            before.append(weights(model))
            scaler.step(optimizer)
            scaler.update()
            watcher.step(batch, loss)
            losses.append(loss.item())
    return model, optimizer, losses, before


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("has_unscale", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_gradient_scaler_hides_nothing_and_a_step_it_skips_is_none(fused, has_unscale, dtype):
    settings = {"fused": fused, "has_unscale": has_unscale, "dtype": dtype}
    alone = scaled_loop(Unwatched, **settings)
    *watched, before = scaled_loop(lambda *args: watch(*args, every=1, run_dir="run"), **settings)
    assert_equal(state_of(*watched), state_of(*alone[:3]))
    steps, readings = events("run", "step"), events("run", "measurement")
    assert [reading["step"] for reading in readings] == [1, 2, 3, 4, 5, 6]
    assert events("run", "end")[0]["num_skipped"] == 1
    assert not events("run", "not_finite")
    taken = [(w, batch) for number, (w, batch) in enumerate(zip(before, batches(7), strict=True)) if number != 3]
    model = network()
    for event, (w, batch) in zip(steps, taken, strict=True):
        nn.utils.vector_to_parameters(w, model.parameters())
        model.zero_grad()
        cross_entropy(model, batch).backward()
        norm = nn.utils.get_total_norm([v.grad for v in model.parameters()])
        assert event["grad_norm"] == pytest.approx(float(norm), rel=0.02)  # of bfloat16
    w, batch = taken[-1]
    lab = Probe(watched[0], cross_entropy, rtol=1e-6).measure(watched[1], batch, w=w)
    assert readings[-1]["ratio"] == pytest.approx(lab.ratio, abs=readings[-1]["residual"])


@pytest.mark.parametrize("fused", [False, True])
def test_the_gradient_taken_of_a_step_is_the_unscaled_one(fused):
    model, batch = network(), next(batches(1))
    cross_entropy(model, batch).backward()
    truth = torch.cat([w.grad.flatten() for w in model.parameters()])
    model.zero_grad()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
    hooks = StepHooks(optimizer, lambda step: True, lambda where: nullcontext())
    hooks.wants_step = True
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(cross_entropy(model, batch)).backward()
    scaler.step(optimizer)
    torch.testing.assert_close(hooks.captured.g, truth)
    assert hooks.captured.norm == pytest.approx(float(truth.norm()))


def test_autocast_around_the_loop_is_off_inside_the_watcher():
    model = network()
    hooks = StepHooks(torch.optim.SGD(model.parameters(), lr=0.1), lambda step: True, lambda where: nullcontext())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with confined(model, hooks):
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")


def test_what_is_measured_under_autocast_is_in_full_precision():
    ratios = []
    for number, is_on in enumerate((False, True)):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def loss_fn(model, batch, is_on=is_on):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_on):
                return cross_entropy(model, batch)

        watcher = watch(model, optimizer, loss_fn, every=1, run_dir=f"run{number}")
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_on):
            taught(model, optimizer, watcher, next(batches(1)))
        watcher.close()
        ratios += [reading["ratio"] for reading in events(f"run{number}", "measurement")]
    assert ratios[1] == ratios[0]


def test_autocast_around_the_lab_changes_nothing_of_its_number():
    model, batch = network(), next(batches(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cross_entropy(model, batch).backward()
    optimizer.step()
    alone = tr.measure(model, optimizer, cross_entropy, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tr.measure(model, optimizer, cross_entropy, batch).ratio == alone.ratio


def test_the_gradient_of_a_closure_is_the_one_the_step_was_taken_with():
    norms = []
    for number, has_closure in enumerate((False, True)):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        watcher = watch(model, optimizer, cross_entropy, every=1, probe=next(batches(1)), run_dir=f"run{number}")
        for _ in range(4):
            batch = next(batches(1))  # the same each time: full-batch training

            def closure(model=model, optimizer=optimizer, batch=batch):
                optimizer.zero_grad()
                loss = cross_entropy(model, batch)
                loss.backward()
                return loss

            if has_closure:
                loss = optimizer.step(closure)
            else:
                loss = closure()
                optimizer.step()
            watcher.step(batch, loss)
        watcher.close()
        norms.append([event["grad_norm"] for event in events(f"run{number}", "step")])
        assert not any(reading["is_minibatch"] for reading in events(f"run{number}", "measurement"))
    assert norms[1] == norms[0]


@pytest.mark.filterwarnings("ignore:.*(online softmax|record function|Profiler).*")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("is_given", [True, False])
def test_a_compiled_model_is_not_compiled_again_for_being_watched(backend, is_given):
    """Given to `watch` itself, or called by the loss alone."""
    counters = torch._dynamo.utils.counters
    found, graphs = [], []
    for watching in (Unwatched, lambda *args: watch(*args, every=2, run_dir="run")):
        torch._dynamo.reset()
        counters.clear()
        model = network()
        compiled = torch.compile(model, backend=backend)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

        def loss_fn(given, batch, compiled=compiled):
            return cross_entropy(given if is_given else compiled, batch)

        with watching(compiled if is_given else model, optimizer, loss_fn) as watcher:
            losses = [taught(compiled, optimizer, watcher, batch, loss_fn) for batch in batches(8)]
        found.append(state_of(model, optimizer, losses))
        graphs.append(dict(counters["stats"]))
    assert_equal(found[1], found[0])
    assert graphs[1] == graphs[0]
    assert graphs[0]["unique_graphs"] >= 1
    assert len(events("run", "measurement")) == 4


def test_an_average_of_the_weights_beside_the_run_is_left_alone():
    averages = []
    for watching in (Unwatched, lambda *args: watch(*args, every=1, run_dir="run")):
        torch.manual_seed(2)
        model = Everything()
        average = AveragedModel(model, use_buffers=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watching(model, optimizer, cross_entropy) as watcher:
            for batch in batches(6):
                taught(model, optimizer, watcher, batch)
                average.update_parameters(model)
        averages.append(average.state_dict())
    assert_equal(averages[1], averages[0])
    assert len(events("run", "measurement")) == 6


def test_an_average_of_the_weights_is_not_what_is_trained(capsys):
    model = network()
    average = AveragedModel(model)
    watcher = watch(average, torch.optim.SGD(model.parameters(), lr=0.1), cross_entropy, run_dir="run")
    assert not watcher.is_on
    assert "Give the model that is trained, not a copy of it" in capsys.readouterr().err


def test_readings_follow_a_model_that_changes_its_precision_and_so_does_the_probe(capsys):
    model, probe = network(), next(batches(1, size=64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, probe=probe, every=1, run_dir="run")
    for number, (x, y) in enumerate(batches(6)):
        if number == 3:
            model.double()
        taught(model, optimizer, watcher, (x.to(model[0].weight.dtype), y))
    x, y = probe
    lab = tr.measure(model, optimizer, cross_entropy, (x.double(), y))
    now = watcher.measure()
    watcher.close()
    assert now.ratio == pytest.approx(lab.ratio, abs=now.residual)
    assert len(events("run", "measurement")) == 6
    said = capsys.readouterr().err
    assert said.count("step 4: the optimizer now moves 163 numbers in 4 parameters, float64 on cpu") == 1
    assert "goes on" not in said


def test_a_step_whose_weights_moved_before_it_was_told_is_left_out():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, probe=next(batches(1)), every=1, run_dir="run")
    for number, (x, y) in enumerate(batches(5)):
        optimizer.zero_grad()
        cross_entropy(model, (x.to(model[0].weight.dtype), y)).backward()
        optimizer.step()
        if number == 2:
            model.double()
        watcher.step((x, y))
    watcher.close()
    assert [reading["step"] for reading in events("run", "measurement")] == [1, 2, 4, 5]


def test_a_model_that_was_moved_to_where_there_are_no_numbers_is_let_go_in_one_line(capsys):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, every=1, run_dir="run")
    taught(model, optimizer, watcher, next(batches(1)))
    capsys.readouterr()
    cross_entropy(model, next(batches(1))).backward()
    optimizer.step()
    for w in model.parameters():
        w.grad = None
        torch.utils.swap_tensors(w, nn.Parameter(w.detach().to("meta")))
    watcher.step(next(batches(1)))
    [line] = capsys.readouterr().err.splitlines()
    assert "must be on one device that holds numbers; got meta" in line
    assert not watcher.is_on


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_probe_of_another_precision_is_measured_in_the_models(dtype):
    model, (x, y) = network(), next(batches(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, probe=(x.to(dtype), y), every=1, run_dir="run")
    taught(model, optimizer, watcher, (x, y))
    reading = watcher.measure()
    watcher.close()
    truth = tr.measure(model, optimizer, cross_entropy, (x.to(dtype).float(), y))
    assert reading.ratio == pytest.approx(truth.ratio, abs=reading.residual)
    assert reading.route == "kept graph"


def test_a_random_loss_is_said_and_measured_as_a_mean_over_the_same_draws(capsys):
    """Dropout, as trained. The lab's number is that of the same draws."""
    torch.manual_seed(4)
    model, probe = Everything(), next(batches(1, size=12))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    watcher = watch(model, optimizer, cross_entropy, probe=probe, every=3, run_dir="run")
    for number, batch in enumerate(batches(9)):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        w = weights(model)
        optimizer.step()
        if number == 0:
            draws = torch.get_rng_state()  # the first step finds out, and keeps them
        watcher.step(batch)
    watcher.close()
    last = events("run", "measurement")[-1]
    assert "the loss is random, by " in (said := capsys.readouterr().err)
    assert said.count("every reading is the mean over the same 4 draws") == 1
    assert last["num_draws"] == 4
    assert 0.02 < last["loss_spread"] < 0.3
    lab = {}
    for num_draws in (1, 4):
        torch.set_rng_state(draws)
        data = MicroBatches([probe] * num_draws)
        lab[num_draws] = Probe(model, cross_entropy, rtol=1e-6).measure(optimizer, data, w=w).ratio
    assert last["ratio"] == pytest.approx(lab[4], abs=last["residual"])
    assert abs(last["ratio"] - lab[1]) > last["residual"]


def test_full_batch_training_with_dropout_is_not_taken_for_minibatch_training():
    """No gradient of the probe set is the step's there, though the data are the same."""
    torch.manual_seed(4)
    model, batch = Everything(), next(batches(1, size=48))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    watcher = watch(model, optimizer, cross_entropy, probe=batch, every=1, run_dir="run")
    for _ in range(4):
        taught(model, optimizer, watcher, batch)
    watcher.close()
    assert not any(reading["is_minibatch"] for reading in events("run", "measurement"))


def test_a_loss_that_draws_nothing_is_measured_once_and_not_called_random(capsys):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, every=1, run_dir="run")
    taught(model, optimizer, watcher, next(batches(1)))
    watcher.close()
    assert "random" not in capsys.readouterr().err
    assert events("run", "measurement")[0]["num_draws"] == 1


GENERATOR = np.random.default_rng(0)
PYTHONS = random.Random(0)
TORCHS = torch.Generator().manual_seed(0)

NOISES = {
    "python": random.random,
    "numpy": np.random.rand,
    "python's own": lambda: PYTHONS.random(),
    "numpy's own": lambda: GENERATOR.random(),
    "torch's own": lambda: float(torch.rand((), generator=TORCHS)),
}


@pytest.mark.parametrize("name", NOISES)
def test_random_numbers_that_a_loss_draws_anywhere_are_put_back(name, capsys):
    draw = NOISES[name]

    def noisy(model, batch):
        return cross_entropy(model, batch) * (1 + 0.5 * draw())

    found = []
    for watching in (Unwatched, lambda *args: watch(*args, every=1, run_dir="run")):
        random.seed(1), np.random.seed(1), PYTHONS.seed(1), TORCHS.manual_seed(1)
        GENERATOR.bit_generator.state = np.random.default_rng(1).bit_generator.state
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with watching(model, optimizer, noisy) as watcher:
            losses = [taught(model, optimizer, watcher, batch, noisy) for batch in batches(6)]
        found.append(state_of(model, optimizer, losses))
    assert_equal(found[1], found[0])
    assert len(events("run", "measurement")) == 6
    assert "the loss is random" in capsys.readouterr().err


def test_a_loss_that_keeps_something_of_its_own_is_said(capsys):
    calls = []

    def counting(model, batch):
        calls.append(1)
        return cross_entropy(model, batch) * (1 + 0.1 * len(calls))

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, counting, every=1, run_dir="run")
    for batch in batches(3):
        taught(model, optimizer, watcher, batch)
    watcher.close()
    said = capsys.readouterr().err
    assert said.count("loss_fn gives another value each time it is called on the same data") == 1
    assert len(events("run", "measurement")) == 3


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.body(x)))


def added(model, optimizer):
    model.head.requires_grad_(True)
    optimizer.add_param_group({"params": model.head.parameters()})


def thawed(model, optimizer):
    model.head.requires_grad_(True)


@pytest.mark.parametrize("change", [added, thawed])
def test_parameters_that_join_on_the_way_are_measured_from_then_on_by_name(change, capsys):
    torch.manual_seed(0)
    model = Two()
    model.head.requires_grad_(False)
    params = model.body.parameters() if change is added else model.parameters()
    optimizer = torch.optim.AdamW(params, lr=1e-2)
    watcher = watch(model, optimizer, cross_entropy, every=1, run_dir="run")
    for number, batch in enumerate(batches(6)):
        if number == 3:
            change(model, optimizer)
        taught(model, optimizer, watcher, batch)
    now, lab = watcher.measure(batch), tr.measure(model, optimizer, cross_entropy, batch)
    watcher.close()
    readings = events("run", "measurement")
    assert len(readings) == 6
    assert {layer["name"] for layer in readings[2]["layers"]} == {"body.weight", "body.bias"}
    assert {layer["name"] for layer in readings[3]["layers"]} == {
        f"{a}.{b}" for a in ("body", "head") for b in ("weight", "bias")
    }
    assert now.ratio == pytest.approx(lab.ratio, abs=now.residual)
    assert capsys.readouterr().err.count("step 4: the optimizer now moves 163 numbers in 4 parameters") == 1


def test_what_was_found_of_other_parameters_is_no_cause_of_what_is_found_of_these():
    """From a flat coordinate to a steep one: the curvature did not rise, another is looked at."""

    class Bowl(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.steep = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1), requires_grad=False)

        def forward(self, batch):
            return (self.flat.square() + 9 * self.steep.square()).sum() / 2 * batch.mean()

    model, batch = Bowl(), torch.ones(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.22)
    watcher = watch(model, optimizer, lambda model, batch: model(batch), probe=batch, every=1, run_dir="run")
    for number in range(30):
        model.flat.requires_grad_(number < 15)
        model.steep.requires_grad_(number >= 15)
        taught(model, optimizer, watcher, batch, lambda model, batch: model(batch))
    watcher.close()
    readings = events("run", "measurement")
    assert (readings[10]["ratio"], readings[-1]["ratio"]) == pytest.approx((0.11, 0.99))
    assert not any(reading["cause"] for reading in readings)


def test_a_layer_replaced_behind_the_optimizers_back_is_said_and_the_run_let_go(capsys):
    model = Two()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    watcher = watch(model, optimizer, cross_entropy, every=1, run_dir="run")
    for number, batch in enumerate(batches(6)):
        if number == 3:
            model.head = nn.Linear(16, 3)
        taught(model, optimizer, watcher, batch)
    assert not watcher.is_on
    last = capsys.readouterr().err.splitlines()[-1]
    assert "2 of its 4 are not" in last
    assert "the parameters it has now" in last
    assert len(events("run", "measurement")) == 3


def test_two_watchers_on_one_optimizer_are_said_and_one_after_the_other_are_not(capsys):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = watch(model, optimizer, cross_entropy, every=1, run_dir="run0")
    assert capsys.readouterr().err == ""
    second = watch(model, optimizer, cross_entropy, every=1, run_dir="run1")
    assert "this optimizer is watched already" in capsys.readouterr().err
    first.close()
    second.close()
    watch(model, optimizer, cross_entropy, every=1, run_dir="run2").close()
    assert capsys.readouterr().err == ""


def test_two_optimizers_in_one_loop_are_each_watched_with_the_others_networks_left_alone():
    """A generator and a discriminator, each with its loss, which calls the other's network."""

    def hinge(discriminator, batch):
        real, fake = batch
        return (1 - discriminator(real)).relu().mean() + (1 + discriminator(fake)).relu().mean()

    found = []
    for watching in (Unwatched, lambda *args, **rest: watch(*args, every=2, **rest)):
        torch.manual_seed(0)
        G, D = (
            nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6)),
            nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)),
        )

        def fooling(G, z, D=D):
            return -D(G(z)).mean()

        of_D, of_G = torch.optim.Adam(D.parameters(), lr=1e-2), torch.optim.Adam(G.parameters(), lr=1e-2)
        losses = []
        with watching(D, of_D, hinge, run_dir="D") as on_D, watching(G, of_G, fooling, run_dir="G") as on_G:
            for real, _ in batches(8):
                z = torch.randn(32, 3)
                losses.append(taught(D, of_D, on_D, (real, G(z).detach()), hinge))
                losses.append(taught(G, of_G, on_G, z, fooling))
        found.append(state_of(D, of_D, losses) | {f"G {k}": v for k, v in state_of(G, of_G, losses).items()})
    assert_equal(found[1], found[0])
    assert [len(events(path, "measurement")) for path in ("D", "G")] == [4, 4]


def test_a_loop_that_forgets_to_call_step_is_told_so_once_on_the_way_and_once_at_the_end(capsys):
    model, batch = network(), next(batches(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, every=1, run_dir="run")
    for _ in range(MAX_UNTOLD + 50):
        cross_entropy(model, batch).backward()
        optimizer.step()
    [line] = capsys.readouterr().err.splitlines()
    assert f"{MAX_UNTOLD} steps were taken without" in line
    assert watcher._watching._hooks.captured.step == MAX_UNTOLD  # and no weights are copied any more
    watcher.close()
    assert f"never called in {MAX_UNTOLD + 50} steps, and nothing was measured" in capsys.readouterr().err


def test_a_long_pause_is_no_forgetting(capsys):
    model, batch = network(), next(batches(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, every=1, run_dir="run")
    with watcher.pause():
        for _ in range(MAX_UNTOLD + 1):
            taught(model, optimizer, watcher, batch)
    taught(model, optimizer, watcher, batch)
    watcher.close()
    assert [reading["step"] for reading in events("run", "measurement")] == [MAX_UNTOLD + 2]
    assert "once after every" not in capsys.readouterr().err


def test_calls_without_a_step_are_left_out_and_told_if_they_are_most(capsys):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, every=1, run_dir="run")
    watcher.step(next(batches(1)))
    for batch in batches(3):
        taught(model, optimizer, watcher, batch)
        watcher.step(batch)
    watcher.close()
    assert len(events("run", "measurement")) == 3
    assert events("run", "end")[0]["num_skipped"] == 4
    assert "4 of its 7 calls came without one" in capsys.readouterr().err


def test_what_is_not_finite_between_readings_is_found_at_the_end_with_the_step_it_was_last_well(capsys):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    watcher = watch(model, optimizer, cross_entropy, every=5, run_dir="run")
    for step, batch in enumerate(batches(9), start=1):
        taught(model, optimizer, watcher, batch)
        if step == 7:
            optimizer.state[model[2].weight]["exp_avg_sq"][1, 3] = math.inf
    watcher.close()
    [found] = events("run", "not_finite")
    assert (found["what"], found["parameter"], found["step"], found["since"]) == ("second moment", "2.weight", 9, 5)
    assert (
        "The second moment of 2.weight is not finite for the first time at step 9, after step 5."
        in capsys.readouterr().err
    )


def test_a_loss_that_is_lost_between_two_steps_of_the_log_is_dated_between_them(monkeypatch):
    monkeypatch.setattr("tightrope.monitor.schedule.Schedule.stride", 4)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, budget=1e-6, probe=next(batches(1)), run_dir="run")
    for step, (x, y) in enumerate(batches(20), start=1):
        taught(model, optimizer, watcher, (x * (math.nan if step >= 15 else 1), y))
    watcher.close()
    seen = [event["step"] for event in events("run", "step")]
    found = {event["what"]: event for event in events("run", "not_finite")}["loss"]
    assert found["step"] == min(step for step in seen if step >= 15)
    assert found["since"] == max(step for step in seen if step < 15)
    assert found["since"] < found["step"] - 1


def test_a_gradient_cleared_before_the_step_is_told_is_named_all_the_same():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watcher = watch(model, optimizer, cross_entropy, every=50, run_dir="run")
    for batch in batches(2):
        cross_entropy(model, batch).backward()
        model[2].weight.grad[0, 0] = math.nan
        optimizer.step()
        optimizer.zero_grad()
        watcher.step(batch)
    watcher.close()
    found = {event["what"]: event["parameter"] for event in events("run", "not_finite")}
    assert found["gradient"] == "2.weight"


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")
def test_a_compiled_step_is_watched():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    twin = copy.deepcopy(model)
    other = torch.optim.AdamW(twin.parameters(), lr=1e-2)
    compiled, alone = (torch.compile(each.step, backend="eager") for each in (optimizer, other))
    watcher = watch(model, optimizer, cross_entropy, every=2, run_dir="run")
    for batch in batches(6):
        for each, its, step in ((model, optimizer, compiled), (twin, other, alone)):
            its.zero_grad()
            cross_entropy(each, batch).backward()
            step()
        watcher.step(batch)
    watcher.close()
    assert len(events("run", "measurement")) == 3
    assert torch.equal(weights(model), weights(twin))
