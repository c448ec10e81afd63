"""Where numbers and alerts of a watched run go: every sink gets them, and none of them disturbs the run."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from tightrope.monitor import Sink, watch
from tightrope.monitor.resolution import KNOWN
from tightrope.monitor.trackers import MLflow
from tightrope.store import read_events

from .loops import Unwatched, assert_equal, batches, cross_entropy, network, plain_loop, state_of

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
WITH_RUNS = TRACKERS[1:]
NUMBERS = {"ratio", "residual", "sharpness", "participation", "lr", "next_ratio"}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Kept(Sink):
    """Keeps what it is told, and raises where it is told to."""

    def __init__(self, fails_in="", error=RuntimeError):
        self.told, self.fails_in, self.error = [], fails_in, error

    def _take(self, what, *told):
        self.told.append((what, *told))
        if what == self.fails_in:
            raise self.error("no\nroute to host")

    def log(self, step, numbers):
        self._take("log", step, numbers)

    def alert(self, step, title, words):
        self._take("alert", step, title, words)

    def close(self):
        self._take("close")

    def named(self, what):
        return [told for told in self.told if told[0] == what]


def events(kind):
    return [event for event in read_events("run") if event["type"] == kind]


def trained(num_steps=4, *, each=lambda step, loss: None, lr=1e-2, stop=(), **settings):
    """A loop of gradient descent under watch; `each` is what its owner does after a step; the watcher is closed."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    watcher = watch(model, optimizer, cross_entropy, run_dir="run", **settings)
    for step, batch in enumerate(batches(num_steps)):
        optimizer.zero_grad()
        loss = cross_entropy(model, batch) * (float("nan") if step in stop else 1.0)
        loss.backward()
        optimizer.step()
        watcher.step(batch, loss)
        each(step, loss.item())
    watcher.close()
    return watcher


def lines(capsys):
    return capsys.readouterr().err.splitlines()


# The contract


def test_a_sink_gets_every_reading_the_alerts_and_one_close():
    sink = Kept()
    trained(4, sinks=(sink,), every=1, lr=1e4)
    measured = events("measurement")
    assert [told[1] for told in sink.named("log")] == [1, 2, 3, 4]
    for (_, _, numbers), event in zip(sink.named("log"), measured, strict=True):
        assert numbers["ratio"] == pytest.approx(event["ratio"], nan_ok=True)
        assert numbers.keys() >= NUMBERS
    assert any("beyond the edge" in title for _, _, title, _ in sink.named("alert"))
    assert sink.named("close") == [("close",)]
    assert sink.told[-1] == ("close",)


def test_what_is_not_finite_is_an_alert():
    sink = Kept()
    trained(4, sinks=(sink,), every=1, stop=(1,))
    steps = {title: step for _, step, title, _ in sink.named("alert")}
    assert steps["loss not finite"] == 2
    assert steps["gradient not finite"] == 2


@pytest.mark.parametrize("where", ["log", "alert", "close"])
def test_a_sink_that_fails_is_said_once_and_the_others_and_the_run_directory_go_on(where, capsys):
    bad, good = Kept(where), Kept()
    trained(6, sinks=(bad, good), every=1, lr=1e4)
    said = [line for line in lines(capsys) if "Kept failed" in line]
    assert said == ["tightrope: The sink Kept failed and is left out: RuntimeError: no route to host"]
    assert len(bad.named(where)) == 1
    assert len(bad.named("close")) == 1
    assert len(good.named("log")) == len(events("measurement")) == 6
    assert good.named("close")
    assert events("end")


@pytest.mark.parametrize("where", ["log", "close"])
def test_an_interrupt_in_a_sink_passes(where):
    with pytest.raises(KeyboardInterrupt):
        trained(3, sinks=(Kept(where, KeyboardInterrupt),), every=1)
    if where == "close":
        assert events("end")


def test_a_sink_cannot_change_what_another_gets():
    class Greedy(Kept):
        def log(self, step, numbers):
            numbers.clear()

    good = Kept()
    trained(1, sinks=(Greedy(), good), every=1)
    assert good.named("log")[0][2]["ratio"] > 0


@pytest.mark.parametrize("where", ["log", "close"])
def test_time_in_a_sink_is_time_spent_watching(where):
    class Busy(Kept):
        def _take(self, what, *told):
            began = time.process_time()
            while what == where and time.process_time() - began < 0.5:
                pass

    trained(1, sinks=(Busy(),), every=1)
    [end] = events("end")
    assert 0.5 <= end["measuring_seconds"] <= end["seconds"]


def test_random_states_are_kept_from_sinks():
    class Gambler(Kept):
        def _take(self, what, *told):
            random.random(), np.random.rand(), torch.rand(1)

    before = random_states()
    torch_before = torch.get_rng_state()
    alone = state_of(*plain_loop(Unwatched))
    assert_equal(state_of(*plain_loop(lambda *args: watch(*args, every=2, sinks=(Gambler(),)))), alone)
    assert random_states() == before
    torch.set_rng_state(torch_before)


def random_states():
    return random.getstate(), np.random.get_state()[1].tobytes(), np.random.get_state()[2]


# What may be asked for


UNFIT = {
    "misspelt": (("wandbb",), "Did you mean 'wandb'?"),
    "of another kind": ((3,), "got 3. Write a subclass of `Sink`, or leave it out."),
    "unheard of": (("nowhere",), "of tensorboard, wandb, mlflow, trackio, `Sink` objects or a SummaryWriter; got 'now"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_cannot_be_a_sink_is_one_line_and_the_run_goes_on_unwatched(name, capsys):
    sinks, words = UNFIT[name]
    assert not trained(2, sinks=sinks).is_on
    [line] = lines(capsys)
    assert words in line
    assert line.endswith("The run goes on unwatched.")
    assert not Path("run").exists()


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_that_is_not_installed_is_one_line_with_the_extra(tracker, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, tracker, None)
    trained(2, sinks=(tracker,))
    [line] = lines(capsys)
    assert line == (
        f"tightrope: watch: {tracker} must be installed; it is not. Do: pip install 'tightrope[trackers]'. "
        "The run goes on unwatched."
    )


def test_a_folder_of_the_name_of_a_tracker_is_not_taken_for_it(capsys, monkeypatch, tmp_path):
    Path("wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    trained(2, sinks=("wandb",))
    assert "wandb must be installed" in lines(capsys)[0]


def test_a_sink_or_a_name_alone_needs_no_tuple(capsys):
    sink = Kept()
    trained(1, sinks=sink, every=1)
    assert sink.named("log")
    trained(1, sinks="wandbb")
    assert "got 'wandbb'" in lines(capsys)[-1]


def test_the_first_line_names_the_sinks(capsys):
    trained(1, sinks=(Kept(),), every=1)
    assert lines(capsys)[0].endswith("-> run, Kept")


LOOP = """
import random, sys
import numpy as np, torch
import tightrope as tr

trackers = {trackers!r}
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
states = lambda: (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
loss_fn = lambda model, x: model(x).square().mean()
for name in {asked!r}:
    before, loaded = states(), set(sys.modules)
    with tr.watch(model, optimizer, loss_fn, every=1, run_dir=f"run-{{name}}", sinks=(name,) if name else ()) as w:
        for _ in range(2):
            optimizer.zero_grad()
            loss_fn(model, torch.ones(3, 2)).backward()
            optimizer.step()
            w.step(torch.ones(3, 2))
    new = (sys.modules.keys() - loaded) & set(trackers)
    print("loop:", name, name in sys.modules, "kept" if states() == before else "drawn", *sorted(new - {{name}}))
"""


def test_a_tracker_is_loaded_only_if_asked_for_and_starting_it_draws_no_random_number(request):
    """In one fresh process: first a loop without a tracker, then one with each that is installed."""
    installed = [name for name in TRACKERS if importlib.util.find_spec(name)]
    for name in installed:
        request.getfixturevalue(name)
    code = LOOP.format(asked=["", *installed], trackers=TRACKERS)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "failed" not in result.stderr
    said = [line.split()[1:] for line in result.stdout.splitlines() if line.startswith("loop:")]
    assert said[0] == ["False", "kept"]
    assert [line[:3] for line in said[1:]] == [[name, "True", "kept"] for name in installed]
    for name in ("", *installed):
        assert len([event for event in read_events(f"run-{name}") if event["type"] == "measurement"]) == 2


# Trackers, read back from what they stored


class Stored:
    """What a tracker stored of one run: (step, number) by name, the alerts' words, and of the run itself.

    `losses` are rows of the run's owner, with the steps that the tracker counts.
    """

    def __init__(self, values, alerts, name="", is_finished=None, losses=()):
        self.values, self.alerts, self.name, self.is_finished = values, alerts, name, is_finished
        self.losses = list(losses)

    def series(self, key):
        return self.values[f"tightrope/{key}"]


@pytest.fixture
def tensorboard():
    pytest.importorskip("tensorboard", reason="trackers are an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def stored(folder="run/tensorboard"):
        read = EventAccumulator(str(folder))
        read.Reload()
        values = {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
        texts = [tag for tag in read.Tags()["tensors"] if tag.endswith("text_summary")]
        return [Stored(values, [e.tensor_proto.string_val[0].decode() for tag in texts for e in read.Tensors(tag)])]

    return stored


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    for name in ("DIR", "CONFIG_DIR", "CACHE_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path))
    for name, value in (("MODE", "offline"), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb = pytest.importorskip("wandb", reason="trackers are an extra")

    def stored():
        assert wandb.setup().most_recent_active_run is None  # or it would be ended here
        wandb.teardown()  # its service writes on for a moment after a run has finished
        return [stored_by_wandb(path) for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))]

    yield stored
    wandb.teardown()


def wandb_records(path):
    """Records of an offline file: a header of 7 bytes, then blocks of 32 KiB of chunks (checksum, length, kind)."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at < len(data):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole of a record, or its last part
            yield Record.FromString(whole)
            whole = b""


def wandb_rows(path):
    """Rows of history in order, each a dict."""
    for record in wandb_records(path):
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            yield row | {"_step": record.history.step.num}


def stored_by_wandb(path):
    values = {}
    for row in wandb_rows(path):
        for key, value in row.items():
            values.setdefault(key, []).append((row.get("tightrope/step"), float(value)))
    records = list(wandb_records(path))
    alerts = [r.alert.title + ": " + r.alert.text for r in records if r.WhichOneof("record_type") == "alert"]
    [name] = {r.run.display_name for r in records if r.WhichOneof("record_type") == "run"}
    losses = [(row["_step"], row["loss"]) for row in wandb_rows(path) if "loss" in row]
    return Stored(values, alerts, name, any(r.WhichOneof("record_type") == "exit" for r in records), losses)


@pytest.fixture
def mlflow(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the small client has no other store without a server
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    mlflow = pytest.importorskip("mlflow", reason="trackers are an extra")

    def stored():
        client, found = mlflow.MlflowClient(), []
        for run in client.search_runs([e.experiment_id for e in client.search_experiments()]):
            values = {
                key: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]
                for key in run.data.metrics
            }
            alerts = [f"{key}: {words}" for key, words in run.data.tags.items() if key.startswith("tightrope alert")]
            is_finished = run.info.status == "FINISHED"
            found.append(Stored(values, alerts, run.info.run_name, is_finished, values.get("loss", ())))
        return found

    return stored


@pytest.fixture
def trackio(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio", reason="trackers are an extra")
    from trackio import sqlite_storage

    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")  # it reads the variable at import
    yield lambda: [s for path in (tmp_path / "trackio").glob("*.db") for s in stored_by_trackio(path)]
    trackio.context_vars.current_run.set(None)
    trackio.context_vars.current_project.set(None)


def trackio_rows(path):
    with closing(sqlite3.connect(path)) as store:
        return store.execute("SELECT run_id, run_name, step, metrics FROM metrics ORDER BY id").fetchall()


def stored_by_trackio(path):
    runs = {}
    for run_id, name, step, metrics in trackio_rows(path):
        stored = runs.setdefault(run_id, Stored({}, [], name))
        for key, value in json.loads(metrics).items():
            stored.values.setdefault(key, []).append((step, float(value)))
        stored.losses = stored.values.get("loss", [])
    with closing(sqlite3.connect(path)) as store:
        for run_id, title, text in store.execute("SELECT run_id, title, text FROM alerts ORDER BY id"):
            runs[run_id].alerts.append(f"{title}: {text}")
    return runs.values()


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_asked_for_by_name_stores_every_reading_and_every_alert(tracker, request, capsys):
    stored = request.getfixturevalue(tracker)
    before = random_states()
    trained(4, sinks=(tracker,), every=1, lr=1e4, stop=(3,))
    assert random_states() == before
    assert not [line for line in lines(capsys) if "failed" in line]
    [run] = stored()
    measured = events("measurement")
    assert len(measured) == 4
    for key in NUMBERS:
        told = [(step, value) for step, value in run.series(key)]
        assert [step for step, _ in told] == [1, 2, 3, 4]
        largest = np.finfo(float).max
        expected = np.clip(np.array([float(e[key]) for e in measured]), -largest, largest)
        found = np.clip(np.array([value for _, value in told]), -largest, largest)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    for words in ("beyond the edge", "loss not finite", "gradient not finite"):
        assert any(words in alert for alert in run.alerts)
    if tracker != "tensorboard":
        assert run.name == "run"
    assert run.is_finished in (True, None)


def own_run(tracker, module, name="mine", every=None):
    """(log, end, is_open) of a run that its owner has begun, who counts steps by `every` or has them counted."""
    settings = {} if every is None else {"step": every}
    if tracker == "wandb":
        run = module.init(project="mine", name=name)
        log, end, is_open = run.log, run.finish, lambda: module.run is run
    elif tracker == "mlflow":
        run = module.start_run(run_name=name)
        log, end, is_open = module.log_metrics, module.end_run, lambda: module.active_run() is run
    else:
        run = module.init("mine", name=name, auto_log_cpu=False, auto_log_gpu=False)
        log, end = module.log, module.finish
        is_open = lambda: module.context_vars.current_run.get() is run  # noqa: E731
    return lambda step, loss: log({"loss": loss}, **{k: step * n for k, n in settings.items()}), end, is_open


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("every", [None, 10])
@pytest.mark.parametrize("tracker", WITH_RUNS)
def test_an_active_run_gets_the_numbers_and_keeps_its_owners_rows_and_steps(tracker, every, asked, request, capsys):
    stored, module = request.getfixturevalue(tracker), sys.modules[tracker]
    for name, sinks in (("alone", None), ("watched", (tracker,) if asked else ())):
        log, end, is_open = own_run(tracker, module, name, every)
        trained(6, sinks=sinks, every=1, lr=1e4, each=log)
        assert is_open()
        log(6, 0.5)
        end()
        if name == "alone":
            shutil.rmtree("run")
    runs = {run.name: run for run in stored()}
    alone, watched, measured = runs["alone"], runs["watched"], events("measurement")
    assert len(measured) == 6
    if tracker == "wandb" and every:  # a row of a given step is open until the next: the first one has two readings
        measured = measured[1:]
    assert len(alone.losses) == 7
    assert watched.losses == alone.losses
    assert not alone.alerts
    assert not [key for key in alone.values if key.startswith("tightrope")]
    assert [value for _, value in watched.series("ratio")] == pytest.approx([event["ratio"] for event in measured])
    assert any("beyond the edge" in alert for alert in watched.alerts)
    if tracker != "mlflow":
        assert [value for _, value in watched.series("step")] == [event["step"] for event in measured]
    if tracker == "trackio":  # beside the owner's latest row, where there is one
        assert [step for step, _ in watched.series("step")] == [(every or 1) * n for n in (0, 0, 1, 2, 3, 4)]
    assert f"-> run, the active run of {tracker}" in capsys.readouterr().err


@pytest.mark.parametrize("tracker", WITH_RUNS)
def test_a_run_of_our_own_does_not_become_the_active_one(tracker, request, tmp_path):
    stored, module = request.getfixturevalue(tracker), sys.modules[tracker]
    found = []
    trained(2, sinks=(tracker,), every=1, each=lambda *_: found.append(active(tracker, module)))
    assert found == [None, None]
    [run] = stored()
    assert run.name == "run"


def active(tracker, module):
    if tracker == "wandb":
        return module.run
    return module.active_run() if tracker == "mlflow" else module.context_vars.current_run.get()


@pytest.mark.parametrize("tracker", WITH_RUNS)
def test_a_run_that_begins_after_the_watcher_is_found_and_one_that_ended_is_no_failure(tracker, request, capsys):
    stored, module = request.getfixturevalue(tracker), sys.modules[tracker]
    runs = []

    def each(step, loss):
        if step == 1:
            runs.append(own_run(tracker, module))
        if step in (2, 3):
            runs[0][0](step, loss)
        if step == 3:
            runs[0][1]()

    trained(6, every=1, each=each)
    [run] = stored()
    assert len(run.series("ratio")) == 2
    assert not [line for line in lines(capsys) if "failed" in line]


def test_a_writer_of_ones_own_gets_the_numbers_and_stays_open(tensorboard):
    writer = sys.modules["torch.utils.tensorboard"].SummaryWriter("mine")
    trained(3, sinks=(writer,), every=1, each=lambda step, loss: writer.add_scalar("loss", loss, step))
    [run] = tensorboard("mine")
    assert [step for step, _ in run.series("ratio")] == [1, 2, 3]
    writer.add_scalar("loss", 0.5, 9)
    writer.close()
    [run] = tensorboard("mine")
    assert run.values["loss"][-1] == (9, 0.5)


def test_wandb_without_an_account_stays_offline_and_asks_nothing(wandb, monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "nobody"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    trained(1, sinks=("wandb",), every=1)
    [run] = wandb()
    assert len(run.series("ratio")) == 1


def test_an_alert_of_any_title_is_a_tag_of_mlflow(mlflow):
    sink = MLflow(Path("run"))
    sink.alert(3, "optimizer's exp_avg (first) not finite", "words")
    sink.close()
    [run] = mlflow()
    assert run.alerts == ["tightrope alert 3 optimizers exp_avg first not finite: words"]


@pytest.mark.parametrize("tracker", TRACKERS)
def test_numbers_that_are_not_finite_are_stored(tracker, request):
    stored = request.getfixturevalue(tracker)
    sink = KNOWN[tracker](Path("run"))
    sink.log(1, {"ratio": float("nan"), "sharpness": float("inf"), "lr": 1.0})
    sink.close()
    [run] = stored()
    assert np.isnan(run.series("ratio")[0][1])
    assert run.series("sharpness")[0][1] >= np.finfo(np.float32).max
    assert run.series("lr")[0][1] == 1
