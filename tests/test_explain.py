"""`tightrope explain`: where a run stands, in words that come from what is stored."""

from __future__ import annotations

import json

import pytest

from tightrope.cli import main
from tightrope.errors import ConfigError
from tightrope.store import RunWriter
from tightrope.views import explanation

CAUSE = {"since": 10, "before": 0.5, "after": 0.95, "factors": {}, "words": "The ratio went from 0.5 to 0.95."}


@pytest.fixture
def run(tmp_path):
    """A watched run of 40 steps with readings at 10, 20 and 30."""
    with RunWriter.new(tmp_path / "run", "[watch]\n") as writer:
        writer.write("start", method="AdamW", num_parameters=1234)
        for step in range(1, 41):
            writer.write("step", step=step, loss=1.0 / step, lr=1e-3)
            if step in (10, 20, 30):
                ratio = {10: 0.5, 20: 0.95, 30: 1.4}[step]
                writer.write(
                    "measurement",
                    step=step,
                    ratio=ratio,
                    residual=0.01,
                    sharpness=12.0,
                    sharpness_residual=0.1,
                    threshold=38000.0,
                    participation=88.0,
                    num_products=7,
                    route="kept graph",
                    verdict="unstable" if step == 30 else "at the edge" if step == 20 else "stable",
                    words=f"ratio {ratio}.",
                    layers=[{"name": "0.weight", "share": 0.75}, {"name": "2.bias", "share": 0.25}],
                    lr=1e-3,
                    next_lr=2e-3,
                    next_ratio=2 * ratio,
                    cause=CAUSE if step == 20 else None,
                )
        writer.write("not_finite", step=35, what="loss", parameter="", since=34, words="The loss is not finite.")
    return tmp_path / "run"


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(["explain", *map(str, arguments)])
    return end.value.code, capsys.readouterr()


def test_it_tells_state_margin_cause_and_what_is_not_finite(run, capsys):
    code, printed = said(capsys, run)
    assert code == 0
    for words in (
        "AdamW, 1,234 parameters, at step 40",
        "The loss is not finite.",
        "Measured at step 30: unstable. ratio 1.4.",
        "threshold 38,000",
        "held by about 88 coordinates; kept graph, 7 products",
        "lies in 0.weight 75%, 2.bias 25%",
        "with the next, 0.002, the ratio is 2.8",
        "How it came to its edge: The ratio went from 0.5 to 0.95.",
        "The highest of 3 measurements: 1.4 ± 0.01, at step 30.",
    ):
        assert words in printed.out


def test_what_not_every_reading_takes_is_told_from_the_last_that_did(tmp_path, capsys):
    with RunWriter.new(tmp_path / "run", "[watch]\n") as writer:
        writer.write("start", method="AdamW", num_parameters=9)
        for step in range(1, 7):
            sharpness, plain = {2: (5.0, float("nan")), 4: (12.0, 3.5)}.get(step, (float("nan"), float("nan")))
            columns = {"sharpness": sharpness, "sharpness_residual": sharpness / 100, "plain_ratio": plain}
            writer.write("measurement", step=step, ratio=0.5, num_dormant=7, lr=0.012340, next_lr=0.012341, **columns)
        writer.write("end", step=1009, outcome="closed", seconds=1.0, measuring_seconds=0.1, num_skipped=0)
    out = said(capsys, tmp_path / "run")[1].out
    assert "AdamW, 9 parameters, at step 1,009." in out
    assert "Sharpness 12 ± 0.1 at step 4, threshold" in out
    assert "Held at a floor: 7 dormant coordinates; without it the ratio was 3.5 at step 4." in out
    assert "learning rate" not in out
    out = said(capsys, tmp_path / "run", "--at", 4)[1].out
    assert "Sharpness 12 ± 0.1, threshold" in out
    assert "Without a floor under 7 dormant coordinates the ratio is 3.5." in out
    out = said(capsys, tmp_path / "run", "--at", 1)[1].out
    assert "Sharpness —, threshold" in out
    assert "Held at a floor: 7 dormant coordinates.\n" in out


def test_an_earlier_step_is_told_as_it_was_then(run, capsys):
    _, printed = said(capsys, run, "--at", 12)
    assert "Measured at step 10: stable" in printed.out
    assert "How it came to its edge" not in printed.out
    assert "not finite" not in printed.out


def test_growth_can_fail_a_pipeline(run, capsys):
    assert said(capsys, run, "--fail-on", "growth")[0] == 3
    assert said(capsys, run, "--fail-on", "growth", "--at", 25)[0] == 0


def test_growth_is_not_forgotten_when_the_ratio_is_lost(tmp_path, capsys):
    with RunWriter.new(tmp_path / "run", "") as writer:
        writer.write("measurement", step=10, ratio=0.5, verdict="stable")
        writer.write("measurement", step=20, ratio=1.4, verdict="unstable")
        writer.write("measurement", step=30, ratio=float("nan"), verdict="undecided")
    assert said(capsys, tmp_path / "run", "--fail-on", "growth")[0] == 3
    assert said(capsys, tmp_path / "run", "--fail-on", "growth", "--at", 10)[0] == 0


def test_a_run_called_unstable_fails_at_its_end_only(tmp_path, capsys):
    with RunWriter.new(tmp_path / "run", "") as writer:
        writer.write("measurement", step=10, ratio=0.5, verdict="stable")
        writer.write("step", step=15, loss=1.0)
        writer.write("verdict", name="unstable", words="SGD diverged.")
    assert said(capsys, tmp_path / "run", "--fail-on", "growth")[0] == 3
    assert said(capsys, tmp_path / "run", "--fail-on", "growth", "--at", 12)[0] == 0


def test_json_holds_the_same(run, capsys):
    _, printed = said(capsys, run, "--json")
    told = json.loads(printed.out)
    assert told["measurement"]["ratio"] == 1.4
    assert told["cause"]["after"] == 0.95
    assert told["not_finite"][0]["what"] == "loss"
    assert told["lines"] == list(explanation(run).lines)


@pytest.mark.parametrize("at", [0, -3, 41])
def test_a_step_that_was_not_taken_is_refused_in_one_line(run, at, capsys):
    with pytest.raises(ConfigError, match="1 to 40"):
        explanation(run, at)
    code, printed = said(capsys, run, "--at", at)
    assert code == 2
    assert len(printed.err.splitlines()) == 1


def test_a_run_without_measurement_says_so(tmp_path, capsys):
    with RunWriter.new(tmp_path / "bare", "") as writer:
        writer.write("start", method="SGD", num_parameters=1)
        writer.write("step", step=1, loss=1.0)
    _, printed = said(capsys, tmp_path / "bare")
    assert "SGD, 1 parameter, at step 1" in printed.out
    assert "No measurement up to there." in printed.out
