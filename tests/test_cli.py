"""The commands as a user types them: what they print, write and exit with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from tightrope.cli import main
from tightrope.store import read_run

SMALL = ["--set", "hidden=[8]", "--set", "problem.num_examples=50", "--set", "num_steps=15", "--set", "every=5"]


@pytest.fixture
def tightrope(tmp_path, monkeypatch, capsys):
    """Run a command in an empty directory; returns its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return call


@pytest.mark.parametrize("command", ["resume", "report", "explain"])
def test_half_a_run_is_told_which_file_it_lacks(tightrope, tmp_path, command):
    tightrope("run", "digits-adam", *SMALL, "--out", "run")
    (tmp_path / "run" / "events.jsonl").unlink()
    code, _, err = tightrope(command, "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "there is no events.jsonl. Put it back, or delete run." in err


def test_run_trains_prints_its_verdict_and_stores_the_run(tightrope, tmp_path):
    code, out, err = tightrope("run", "digits-adam", *SMALL)
    assert (code, err) == (0, "")
    record = read_run(tmp_path / "runs" / "digits-adam")
    assert record.verdict["words"] in out
    assert "step 15/15  ratio" in out
    assert "  loss 0." in out
    assert "  lr 0.0004" in out
    assert "products" in out
    assert "s left" in out


def test_run_takes_a_configuration_file_that_a_run_stored(tightrope, tmp_path):
    tightrope("run", "digits-adam", *SMALL, "--out", "first")
    code, _, _ = tightrope("run", "first/config.toml", "--out", "second")
    assert code == 0
    first, second = read_run(tmp_path / "first"), read_run(tmp_path / "second")
    assert first.config == second.config
    assert (first.steps["loss"] == second.steps["loss"]).all()


def test_run_writes_its_report_when_asked(tightrope, tmp_path):
    code, out, _ = tightrope("run", "bowl", "--report")
    assert code == 0
    assert "Report: runs/bowl/report.html" in out
    assert (tmp_path / "runs" / "bowl" / "report.html").stat().st_size > 10_000


def test_run_never_overwrites(tightrope, tmp_path):
    tightrope("run", "bowl", "--out", "here")
    before = (tmp_path / "here" / "events.jsonl").read_bytes()
    code, _, err = tightrope("run", "bowl", "--out", "here")
    assert code == 2
    assert "must be new or empty" in err
    assert (tmp_path / "here" / "events.jsonl").read_bytes() == before


def test_a_diverging_run_exits_with_four_and_keeps_everything(tightrope, tmp_path):
    code, out, _ = tightrope("run", "bowl", "--set", "lr=1.5", "--set", "num_steps=400")
    assert code == 4
    assert "Diverged at step" in out
    assert read_run(tmp_path / "runs" / "bowl").outcome == "diverged"


def test_report_draws_several_runs_into_one_file(tightrope, tmp_path):
    tightrope("run", "bowl", "--out", "a")
    tightrope("run", "ravine", "--out", "b")
    code, out, _ = tightrope("report", "a", "b", "-o", "both.html")
    assert code == 0
    assert "both.html" in out
    assert (tmp_path / "both.html").is_file()


def test_runs_lists_what_is_there_and_names_what_cannot_be_read(tightrope, tmp_path):
    tightrope("run", "bowl")
    tightrope("run", "ravine")
    (tmp_path / "runs" / "ravine" / "events.jsonl").write_text("garbage\n")
    code, out, _ = tightrope("runs", "--json")
    rows = {row["run"]: row for row in json.loads(out)}
    assert code == 0
    assert rows["runs/bowl"]["outcome"] == "completed"
    assert rows["runs/bowl"]["steps"] == 100
    assert rows["runs/ravine"]["outcome"].startswith("unreadable")
    code, out, _ = tightrope("runs")
    assert code == 0
    assert "runs/bowl" in out


def test_runs_without_any_says_so(tightrope, tmp_path):
    (tmp_path / "runs").mkdir()
    assert tightrope("runs") == (0, "No runs below runs.\n", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["gd", "--lr", "0.1"], ["P          I", "F(-1)      1\n", "threshold  20 ", "grows 1.2000 times"]),
        (["heavyball", "--lr", "1", "--beta1", "0.9"], ["threshold  3.8 ", "grows 1.7721 times"]),
        (["nesterov", "--lr", "1", "--beta1", "0.9"], ["threshold  1.35714 ", "grows 1.2823 times"]),
        (["adam", "--lr", "1e-3"], ["sqrt(nu/(1-beta2^t))", "threshold  38000 ", "38 / lr"]),
        (["adamw", "--lr", "1e-3", "--weight-decay", "0.1"], ["threshold  37998.1 "]),
        (["adam", "--lr", "1", "--weight-decay", "0.5"], ["threshold  38 ", "P^-1 (H + wd I)", "grows 1.7721 times"]),
        (["rmsprop", "--lr", "0.01"], ["sqrt(nu) + eps", "threshold  200 "]),
        (["nadam", "--lr", "1", "--momentum-decay", "4e-3"], ["threshold  13.5714 "]),
        (["nadam", "--lr", "1", "--momentum-decay", "4e-3", "--step", "10"], ["threshold  3.48"]),
        (
            ["gd", "--lr", "0.1", "--rho", "0.05", "--grad-norm", "0.1"],
            ["threshold  20 ", "lambda_1(P^-1 (H + (0.05/||g||) H^2))", "lambda_1(H) = 5.40312 where ||g|| = 0.1"],
        ),
        (["adam", "--rho", "0.05", "--grad-norm", "0.1"], ["no condition on lambda_1(H) alone"]),
    ],
)
def test_threshold_prints_the_formula_the_gain_the_threshold_and_the_growth(tightrope, arguments, expected):
    code, out, err = tightrope("threshold", *arguments)
    assert (code, err) == (0, "")
    assert all(text in out for text in expected), out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "digts-gd"], "Did you mean 'digits-gd'?"),
        (["run", "no.toml"], "must be a readable TOML file"),
        (["run", "demo", "--set", "lrr=1"], "Did you mean 'lr'?"),
        (["run", "demo", "--set", "lr=-1"], "must be positive"),
        (["run", "demo", "--set", "beta1=1.2"], "beta must be in [0, 1); got 1.2"),
        (["run", "demo", "--set", "problem.num_examples=0"], "must be between 1 and 1797; got 0"),
        (["run", "demo", "--sett", "lr=1"], "Unknown option"),
        (["rnu"], "Unknown command"),
        (["threshold", "adm"], "Did you mean 'adam'?"),
        (["threshold", "adam", "--beta3", "1"], "not a setting"),
        (["threshold", "adam", "--lr", "0"], "must be positive"),
        (["threshold", "adamw", "--lr", "1", "--weight-decay", "3"], "must be below 2"),
        (["threshold"], "requires an argument"),
        (["threshold", "gd", "--grad-norm", "1"], "give --rho as well"),
        (["threshold", "gd", "--rho", "-1"], "rho must be finite and at least 0; got -1.0"),
        (["threshold", "gd", "--rho", "1", "--grad-norm", "0"], "grad_norm must be positive"),
        (["threshold", "gd", "--step", "0"], "step must be at least 1; got 0"),
        (["report"], "name at least one run directory"),
        (["report", "nowhere"], "must be a run directory"),
        (["runs", "nowhere"], "must be a folder"),
        (["compare"], "name at least one run directory"),
        (["compare", "nowhere"], "must be a run directory"),
        (["resume", "nowhere"], "must be a run directory"),
        (["resume"], "requires an argument"),
    ],
)
def test_bad_usage_is_one_line_exit_two_and_nothing_written(tightrope, tmp_path, arguments, message):
    code, out, err = tightrope(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("tightrope: ")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_written_is_one_line(tightrope, tmp_path):
    tightrope("run", "bowl", "--out", "a")
    code, _, err = tightrope("report", "a", "-o", "missing/deep/report.html")
    assert code in (0, 2)
    assert err.count("\n") == (code == 2)


def test_help_lists_every_command(tightrope):
    code, out, _ = tightrope("--help")
    assert code == 0
    assert all(command in out for command in ("run", "report", "runs", "threshold"))


def test_ctrl_c_ends_a_run_cleanly_with_everything_stored(tmp_path):
    command = [sys.executable, "-m", "tightrope", "run", "bowl", "--set", "num_steps=10000000", "--out", "run"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    events = tmp_path / "run" / "events.jsonl"
    deadline = time.monotonic() + 60
    while not (events.exists() and events.read_text().count("\n") > 50) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Interrupted at step" in out
    assert "Traceback" not in err
    assert read_run(tmp_path / "run").outcome == "interrupted"


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path):
    command = f"{sys.executable} -m tightrope run bowl --set num_steps=3000 --out run | head -n 0"
    done = subprocess.run(command, cwd=tmp_path, shell=True, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert read_run(tmp_path / "run").outcome == "completed"


@pytest.mark.parametrize("name", ["events.jsonl", "config.toml"])
def test_a_report_never_overwrites_a_run(tightrope, tmp_path, name):
    tightrope("run", "bowl", "--out", "a")
    before = (tmp_path / "a" / name).read_bytes()
    code, _, err = tightrope("report", "a", "-o", f"a/{name}")
    assert code == 2
    assert "is another file" in err
    assert (tmp_path / "a" / name).read_bytes() == before


def test_a_report_replaces_an_earlier_one(tightrope):
    tightrope("run", "bowl", "--out", "a")
    assert tightrope("report", "a")[0] == 0
    assert tightrope("report", "a")[0] == 0


@pytest.mark.parametrize("target", ["> /dev/full", "| cat"])
def test_output_that_cannot_be_written_or_encoded_does_not_end_the_run(tmp_path, target):
    command = f"PYTHONIOENCODING=ascii {sys.executable} -m tightrope run bowl --out rüns {target}"
    done = subprocess.run(command, cwd=tmp_path, shell=True, capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    assert read_run(tmp_path / "rüns").outcome == "completed"


def test_compare_sets_what_is_known_of_each_method_beside_what_its_run_did(tightrope, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for method in ("gd", "adam"):
        tightrope("run", "bowl", "--set", f"method={method}", "--out", f"runs/{method}")
    tightrope("run", "bowl", "--set", "lr=9", "--set", "num_steps=40", "--out", "wild")
    code, out, err = tightrope("compare", "runs", "wild")
    assert (code, err) == (0, "")
    known, shown = out.split("\n\n")
    assert "moving averages of g and g^2" in known
    assert known.count("Gradient descent") == 1
    assert shown.count(" gd ") == 2
    assert "unstable" in shown
    code, out, _ = tightrope("compare", "runs", "wild", "--json")
    rows = {row["run"]: row for row in json.loads(out)}
    assert rows["gd"]["edge"] == pytest.approx(20)
    assert rows["gd"]["ratio"] == pytest.approx(0.1)
    assert rows["adam"]["edge"] == pytest.approx(380)
    assert rows["wild"]["verdict"] == "unstable"
    assert rows["gd"]["guarantee"] == "convex: 1/T, by minibatches 1/sqrt(T)"


def test_every_method_has_its_traits():
    from tightrope.optim import RECIPES, TRAITS

    assert set(TRAITS) == {*RECIPES, "sam"}


def test_compare_leaves_out_what_cannot_be_read_below_a_folder_and_says_so(tightrope, tmp_path):
    tightrope("run", "bowl", "--out", "runs/good")
    tightrope("run", "bowl", "--out", "runs/bad")
    (tmp_path / "runs" / "bad" / "events.jsonl").write_text("garbage\n")
    code, out, err = tightrope("compare", "runs")
    assert (code, err) == (0, "")
    assert "Left out: read_run: line 1" in out
    code, _, err = tightrope("compare", "runs/bad")
    assert code == 2
    assert "read_run: line 1" in err


def test_a_table_that_is_not_on_a_terminal_keeps_its_numbers_whole(tightrope):
    tightrope("run", "bowl", "--out", "a-run-with-a-very-long-name-that-would-fill-most-of-a-narrow-terminal-by-itself")
    for command in (["compare", "."], ["runs", "."]):
        _, out, _ = tightrope(*command)
        row = next(line for line in out.splitlines() if line.startswith("a-run-with"))
        assert "stable" in row
        assert len(row) > 100


@pytest.mark.parametrize("target", ["> /dev/full", "| head -n 0"])
def test_a_table_nobody_takes_ends_quietly(tightrope, tmp_path, target):
    tightrope("run", "bowl", "--out", "a")
    command = f"{sys.executable} -m tightrope compare a {target}"
    done = subprocess.run(command, cwd=tmp_path, shell=True, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
