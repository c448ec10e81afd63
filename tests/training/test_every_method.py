"""Every method trains digits to its edge from a TOML file, survives a kill, and is told of correctly afterwards."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import time

import pytest

from tightrope.cli import main
from tightrope.optim import RECIPES
from tightrope.store import CONFIG, DISCARDED, EVENTS, read_events, read_run
from tightrope.training import PRESETS, from_mapping, load, override, preset

from .test_kill import command
from .test_resume import events_of

pytestmark = pytest.mark.slow

MEDIANS = {
    "digits-gd": (1.055, 1.014, 1.054),
    "digits-heavyball": (1.037, 0.983, 1.016),
    "digits-nesterov": (1.019, 0.985, 0.967),
    "digits-rmsprop": (1.124, 1.110, 1.088),
    "digits-adam": (0.950, 0.967, 0.986),
    "digits-adamw": (0.940, 0.944, 0.972),
    "digits-adagrad": (1.038, 1.028, 1.014),
    "digits-amsgrad": (1.003, 0.961, 1.020),
    "digits-padam": (1.020, 1.016, 1.013),
    "digits-nadam": (1.008, 0.956, 0.981),
    "digits-adafactor": (0.938, 0.953, 0.944),
    "digits-sam": (1.046, 1.033, 1.007),
}
"""Preset -> median ratio over its plateau as measured with seeds 0, 1 and 2; the presets have seed 0."""
SPARE = 0.03
"""How far outside the three a median may lie: each is of a few dozen chaotic steps, and rounding differs by machine."""
UNDISTURBED = ("digits-adafactor", "digits-sam")
"""Also run without a kill, to compare: the state that needs shapes, and the two gradients a step."""
SETTINGS = ("measure.sharpness=false", "checkpoint_seconds=1")
"""Over the preset: the raw sharpness changes no other number and costs a quarter of the time."""


def configured(name):
    return from_mapping(override(preset(name), SETTINGS))


def begin(folder, *arguments):
    """Start a command in a process that has everything imported and has computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tightrope.cli.app", "tightrope.cli.progress", "tightrope.training"])
    process = context.Process(target=command, args=(folder, *arguments))
    process.start()
    return process


def finish(process):
    process.join()
    return process.exitcode


def last_step(run):
    if not (run / EVENTS).exists():
        return 0
    return (run / EVENTS).read_text().count('"type": "step"')


def kill_at(run, step, process):
    while process.is_alive() and last_step(run) < step:
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    return finish(process)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Run a preset from its TOML, kill it at a random step and resume it: once, on first use."""
    folder = tmp_path_factory.mktemp("digits")
    moment = random.Random(0)
    made = set()

    def run(name):
        if name in made:
            return folder / name
        config = configured(name)
        toml = folder / f"{name}.toml"
        toml.write_text(config.to_toml())
        assert from_mapping(load(toml)) == config
        step = moment.randint(config.num_steps // 10, config.num_steps * 9 // 10)
        assert kill_at(folder / name, step, begin(folder, "run", toml.name, "--out", name)) == -signal.SIGKILL
        assert read_run(folder / name).outcome == "unfinished"
        assert finish(begin(folder, "resume", name)) == 0
        made.add(name)
        return folder / name

    return run


@pytest.fixture(scope="module")
def all_killed(killed):
    return [killed(name) for name in MEDIANS]


def test_there_is_a_preset_of_every_method_and_of_sam():
    methods = {PRESETS[name]["method"]["name"] for name in MEDIANS}
    assert methods == set(RECIPES) - {"custom", "foreign"}
    assert {name for name in PRESETS if name.startswith("digits-")} == set(MEDIANS)
    assert [name for name in MEDIANS if "sam" in PRESETS[name]] == ["digits-sam"]


@pytest.mark.parametrize("name", MEDIANS)
def test_a_method_killed_on_its_way_reaches_its_edge_and_stays_there(killed, name):
    path = killed(name)
    record = read_run(path)
    resumed = [event for event in read_events(path) if event["type"] == "resumed"]
    assert len(resumed) == 1
    assert 0 < resumed[0]["step"] < configured(name).num_steps
    assert (path / DISCARDED).exists()
    assert record.outcome == "completed"
    assert record.steps["step"].tolist() == list(range(1, configured(name).num_steps + 1))
    assert record.verdict["name"] == "at the edge"
    assert "and stays there" in record.verdict["words"]
    low, high = min(MEDIANS[name]) - SPARE, max(MEDIANS[name]) + SPARE
    assert low <= record.verdict["median"] <= high


@pytest.mark.parametrize("name", UNDISTURBED)
def test_what_a_killed_run_stores_equals_an_undisturbed_one(killed, name):
    path = killed(name)
    whole = f"{name}-undisturbed"
    assert finish(begin(path.parent, "run", f"{name}.toml", "--out", whole)) == 0
    assert events_of(path) == events_of(path.parent / whole)
    assert (path / CONFIG).read_text() == (path.parent / whole / CONFIG).read_text()


def test_one_report_names_them_all(all_killed, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, all_killed), "-o", str(tmp_path / "report.html")])
    assert ended.value.code == 0
    page = (tmp_path / "report.html").read_text()
    for path in all_killed:
        assert f">{configured(path.name).label}<" in page
        assert f"{path.name}</h2>" in page
        assert read_run(path).verdict["words"] in page


@pytest.mark.parametrize("name", MEDIANS)
def test_the_threshold_command_prints_what_the_run_was_held_against(killed, name, capsys):
    record = read_run(killed(name))
    method = {key: value for key, value in record.config["method"].items() if key != "name"}
    method |= {"rho": record.config["sam"]["rho"]} if "sam" in record.config else {}
    options = [part for key, value in method.items() for part in (f"--{key.replace('_', '-')}", json.dumps(value))]
    with pytest.raises(SystemExit) as ended:
        main(["threshold", record.config["method"]["name"], *options])
    assert ended.value.code == 0
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line[:1].strip())
    assert float(printed["threshold"].split()[0]) == pytest.approx(record.measurements["threshold"][-1], rel=1e-5)
    assert printed["P"] == record.start["preconditioner"]
    # SAM's holds for the bent Hessian only, so its run names none for the plain one.
    assert record.start["threshold"] == (None if name == "digits-sam" else record.measurements["threshold"][-1])


def test_compare_has_a_row_for_each(all_killed, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["compare", "--json", *map(str, all_killed)])
    assert ended.value.code == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["run"] for row in rows] == [path.name for path in all_killed]
    for row, path in zip(rows, all_killed, strict=True):
        record, config = read_run(path), configured(path.name)
        assert row["method"] == config.label
        assert row["lr"] == config.method.lr
        edge = None if config.sam is not None else pytest.approx(config.method.stability_threshold())
        assert row["edge"] == edge
        assert row["steps"] == config.num_steps
        assert row["ratio"] == record.verdict["median"]
        assert row["verdict"] == "at the edge"
        assert all(row[key] for key in ("step_size", "guarantee", "used_for"))
