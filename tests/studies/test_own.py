"""`tightrope study aeos`: what it says of good optimizers, and of each that has one thing wrong."""

import functools
import importlib.util
import json
import re
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

from tightrope.cli import main
from tightrope.errors import ConfigError
from tightrope.optim import ForeignRecipe
from tightrope.studies import examine, find_rates, own_study, spaced
from tightrope.studies.short_run import trained
from tightrope.training import from_mapping

from . import own


def method_of(name, lr=1e-2, **options):
    return ForeignRecipe(lr=lr, path=f"tests.studies.own:{name}", options=options)


@functools.cache
def results(name):
    sound = examine(method_of(name))
    return sound, {finding.claim: finding for finding in sound.findings}


def test_adam_written_by_hand_is_sound():
    sound, found = results("HandAdam")
    assert [finding.result for finding in found.values()] == ["PASS"] * 5
    assert (sound.status, sound.reason) == ("linear", "")
    assert sound.threshold * sound.lr == pytest.approx(38)


@pytest.mark.parametrize(
    ("name", "claim", "result", "words"),
    [
        ("SignDescent", "has a stability threshold", "UNDECIDED", "is not linear in the gradient"),
        ("Narrow", "works in float64", "MISS", "a step made a parameter float32"),
        ("Narrow", "works in float32", "MISS", "a step put other memory into a parameter"),
        ("Rounding", "works in float64", "MISS", "a step is rounded to float32"),
        ("Rounding", "works in float32", "PASS", ""),
        ("NarrowState", "works in float64", "MISS", "its 'm' is kept in float32"),
        ("Lazy", "works in float64", "MISS", "it stood still in the others"),
        ("Queue", "stopped after step 17 and taken up, it is as if left alone", "MISS", "without pickle"),
        ("Forgetful", "stopped after step 17 and taken up, it is as if left alone", "MISS", "state_dict()"),
        ("LeavesLate", "has a stability threshold", "UNDECIDED", "a step of its copy failed with SystemExit: 7"),
    ],
)
def test_one_thing_wrong_is_one_finding(name, claim, result, words):
    sound, found = results(name)
    assert found[claim].result == result
    assert words in found[claim].why
    if sound.status != "linear":
        assert sound.threshold is None


def test_the_number_of_a_resumption_that_missed_names_the_step_after_the_stop():
    _, found = results("Forgetful")
    assert found["stopped after step 17 and taken up, it is as if left alone"].number.startswith(
        "grad_norm at step 19:"
    )


def test_an_optimizer_whose_short_run_diverges_is_not_said_to_stand_still_nor_given_an_edge():
    lr = 0.141
    sound = examine(ForeignRecipe(lr=lr, path="torch.optim:Adam"))
    found = {finding.claim: finding for finding in sound.findings}
    losses = trained(ForeignRecipe(lr=lr, path="torch.optim:Adam"), 20).losses
    words = f"grew from {losses[0]:.3g} to {losses[-1]:.3g} by step {len(losses)} at lr 0.141. Name smaller rates: --lr"
    assert losses[-1] > 10 * losses[0]
    assert len(losses) < 20
    for claim in ("works in float64", "works in float32", "has a stability threshold"):
        assert found[claim].result == "UNDECIDED"
        assert words in found[claim].why
    assert found["works in float64"].number == f"{len(losses)} of {len(losses)} steps moved a weight"
    assert (sound.status, sound.threshold, sound.has_edge) == ("diverged", None, False)
    assert not any("P pinned" in claim for claim in found)


@pytest.mark.parametrize("lr", [1e3, 1e30])
def test_two_runs_that_diverge_before_the_stop_do_not_show_that_a_run_can_be_taken_up(lr):
    *rest, taken_up = examine(method_of("Plain", lr)).findings
    assert [finding.result for finding in rest] == ["UNDECIDED"] * 3
    assert taken_up.claim.startswith("stopped after step 17")
    assert (taken_up.result, taken_up.number) == ("UNDECIDED", "")
    assert "It diverged at step" in taken_up.why


def test_a_diverging_optimizer_that_is_narrow_too_is_told_that():
    assert trained(method_of("Rounding", 1e3), 20).has_diverged
    found = {finding.claim: finding for finding in examine(method_of("Rounding", 1e3)).findings}
    assert (found["works in float64"].result, found["works in float64"].why) == ("MISS", "a step is rounded to float32")
    assert found["works in float32"].result == "UNDECIDED"


def test_rates_lie_where_the_loss_falls_and_does_not_diverge(monkeypatch):
    monkeypatch.setattr("tightrope.studies.short_run.CANDIDATES", (0.0316, 0.1, 0.316, 1.0, 3.16, 10.0))
    rates = find_rates(method_of("Plain"), 5)
    assert len(rates) == 5
    for lr in (rates[0], rates[-1]):
        losses = trained(method_of("Plain", lr), 1000).losses
        assert losses[-1] < 0.9 * losses[0]
    assert trained(method_of("Plain", 10**0.5 * rates[-1]), 1000).has_diverged
    slow = trained(method_of("Plain", rates[0] / 10**0.5), 1000).losses
    assert slow[-1] > 0.9 * slow[0]
    assert find_rates(method_of("Forgetful"), 5) == ()


QUARTER = 10**0.25
"""Of a decade."""


@pytest.mark.parametrize(
    ("lr", "low", "high"), [(0.562, 0.562 / QUARTER, 0.562 * QUARTER), (0.316, 0.316, 0.562), (1.0, 0.562, 1.0)]
)
def test_around_the_only_rate_found_five_differ_and_lie_where_the_loss_falls(monkeypatch, lr, low, high):
    monkeypatch.setattr("tightrope.studies.short_run.CANDIDATES", (1e-4, lr, 1e4))
    rates = find_rates(method_of("Plain"), 5)
    assert len(set(rates)) == 5
    assert (rates[0], rates[-1]) == pytest.approx((low, high), rel=5e-3)
    for end, beyond in ((rates[0], lr / QUARTER), (rates[-1], lr * QUARTER)):
        losses = trained(method_of("Plain", end), 1000).losses
        assert losses[-1] < 0.9 * losses[0]
        if end == lr:
            short = trained(method_of("Plain", beyond), 1000)
            assert short.has_diverged or short.losses[-1] > 0.9 * short.losses[0]
    assert find_rates(method_of("Plain"), 1) == (lr,)


def test_a_range_of_rates_narrower_than_a_quarter_of_a_decade_is_found(monkeypatch):
    monkeypatch.setattr("tightrope.studies.short_run.CANDIDATES", (0.01, 0.1, 1.0))
    narrow = method_of("Steep")
    rates = find_rates(narrow, 5)
    assert len(set(rates)) == 5
    assert rates[0] < rates[-1] < 0.1 * QUARTER
    assert rates[0] > 0.1 / QUARTER
    assert not trained(msgspec.structs.replace(narrow, lr=rates[-1]), 1000).has_diverged


@pytest.mark.parametrize(("low", "high", "num"), [(0.3, 0.3000001, 5), (0.1, 0.1, 2), (0.1, 0.101, 3)])
def test_rates_that_are_the_same_to_three_digits_are_refused(low, high, num):
    with pytest.raises(ConfigError, match=f"{num} rates from {low} to {high} must differ in three digits"):
        spaced(low, high, num)


def test_spaced_rates_are_a_geometric_sequence():
    assert spaced(1e-3, 1e-1, 5) == (1e-3, 3.16e-3, 1e-2, 3.16e-2, 1e-1)
    assert spaced(1e-3, 1e-1, 1) == (1e-2,)


def test_its_study_asks_for_four_of_five_each_against_its_own_threshold():
    study = own_study(method_of("heavy_ball", beta=0.5), spaced(0.1, 0.4, 5))
    assert [case.config.method.lr for case in study.cases("small")] == [0.1, 0.141, 0.2, 0.283, 0.4]
    assert {case.config.method.options["beta"] for case in study.cases("small", ["seed=1"])} == {0.5}
    assert [(check.at_least, check.band) for check in study.checks] == [(4, (0.85, 1.15))]
    assert len({case.key for case in (*study.cases("small"), *study.cases("small", ["seed=1"]))}) == 10


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("MyAdam", "aeos-MyAdam"),
        ("Adäm_2", "aeos-Adäm_2"),
        ("../../My Adam", "aeos-------My-Adam"),
        ("\U00020000" * 300, "aeos-" + "\U00020000" * 50),
    ],
)
def test_its_figures_have_a_safe_name_whatever_its_label(label, name):
    method = ForeignRecipe(lr=1e-3, path=f"mine.py:{label}")
    found = own_study(method, [1e-3]).name
    assert (method.label, found) == (label, name)
    assert len(f"{found}.html".encode()) < 255


def test_what_it_is_called_with_stands_below_its_figure():
    assert own_study(method_of("heavy_ball", beta=0.5), [0.1]).caption == "heavy_ball is called with beta=0.5."
    assert own_study(method_of("heavy_ball"), [0.1]).caption == ""
    assert own_study(method_of("heavy_ball"), [0.1]).title.startswith("1 learning rate on")


@pytest.fixture
def aeos(tmp_path, monkeypatch, capsys):
    """Run the command in an empty directory on optimizers in a file; returns its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(Path(own.__file__).read_text())

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main(["study", "aeos", *arguments])
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mine.py"], "name it as pkg.mod:Name"),
        (["nowhere:Adam"], "there must be a module nowhere"),
        (["mine.py:HandAdm"], "Did you mean 'HandAdam'?"),
        (["mine.py:SOMETHING"], "must be an optimizer class or what makes one"),
        (["mine.py:HandAdam", "--option", "beta=0.9"], "unexpected keyword argument 'beta'"),
        (["mine.py:HandAdam", "--option", "beta"], "--option: must be KEY=VALUE; got 'beta'"),
        (["mine.py:Closed"], "must take a step without arguments"),
        (["mine.py:HandAdam", "--lrs", "0"], "--lrs: must be a whole number, at least 1"),
        (["mine.py:Leaving"], "Leaving must take a step without arguments; it raised SystemExit: 7"),
        (["mine.py:Leaving", "--lr", "0.1", "--lr", "0.2"], "Leaving must take a step without arguments; it raised"),
        (["mine.py:leaving_at_once"], "must make an optimizer; it raised SystemExit: 8"),
        (["mine.py:HandAdam", "--lr", "0.1"], "--lr: must be given twice"),
        (["mine.py:HandAdam", "--lr", "0.1"], "or once with --lrs 1; got 0.1"),
        (["mine.py:HandAdam", "--lrs", "1", "--lr", "-0.1"], "--lr: must be positive and finite"),
        (["mine.py:HandAdam", "--lr", "0.1", "--lr", "0.01"], "--lr: must be given twice"),
        (["mine.py:HandAdam", "-j", "0"], "-j: must be a whole number, at least 1"),
        (["mine.py:HandAdam", "--lr", "1e-3", "--lr", "1e-2", "--set", "stepz=3"], "--set stepz: not a setting"),
        (["mine.py:HandAdam", "--lr", "1e-3", "--lr", "1e-2", "--set", "device=gpu"], "device: must be one that torch"),
        (["mine.py:HandAdam", "--lr", "0.3", "--lr", "0.3000001"], "--lrs: 5 rates from 0.3 to 0.3000001 must differ"),
    ],
)
def test_bad_usage_is_one_line_and_writes_nothing(aeos, tmp_path, arguments, words):
    code, out, err = aeos(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.py", "__pycache__"}


OWN = "must leave the optimizer and its learning rates as they are; it sets one of them. Use --option KEY=VALUE"


@pytest.mark.parametrize("bounds", [(), ("--lrs", "1", "--lr", "0.001")])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["lr=0.5"], "--set lr=0.5: " + OWN),
        (["lr=1e-6"], OWN),
        (["method.lr=3.16e-6"], OWN),
        (["method=adam"], OWN),
        (["method=adam", "method.beta1=0.5"], OWN),
        (["path=torch.optim:SGD"], OWN),
        (["method.options.eps=1e-4"], OWN),
        (["num_steps=12", "method.options.eps=1e-4"], OWN),
        (["method.name=adam"], OWN),
        (["lr=fast"], OWN),
        (["method.eps=1e-4"], OWN),
        (["nosuch=1"], "--set nosuch: not a setting"),
        (["device=gpu"], "device: must be one that torch"),
    ],
)
def test_settings_of_another_method_or_of_none_are_refused_before_rates_are_sought(
    aeos, tmp_path, monkeypatch, bounds, settings, words
):
    monkeypatch.setattr("tightrope.cli.own_optimizer.find_rates", None)
    code, out, err = aeos("mine.py:HandAdam", *bounds, *(part for each in settings for part in ("--set", each)))
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.py", "__pycache__"}


def test_where_there_is_no_threshold_it_says_so_runs_nothing_and_exits_with_five(aeos, tmp_path):
    code, out, _ = aeos("mine.py:SignDescent", "--lr", "1e-3", "--lr", "1e-2")
    assert code == 5
    assert out.startswith("SignDescent: no threshold. SignDescent was probed and has no frozen method that is known")
    assert not (tmp_path / "studies").exists()


def test_ctrl_c_in_a_step_is_an_interrupt_and_no_error_of_the_optimizer(aeos):
    code, out, err = aeos("mine.py:interrupting", "--lr", "1e-3", "--lr", "1e-2")
    assert (code, out, err) == (130, "", "")


def test_a_short_run_that_diverges_at_the_rates_named_asks_for_smaller_ones_and_runs_nothing(aeos, tmp_path):
    code, out, _ = aeos("torch.optim:Adam", "--lrs", "2", "--lr", "0.1", "--lr", "0.2")
    assert code == 5
    assert out.startswith("Adam: threshold not known. Its loss grew from ")
    assert out.splitlines()[0].endswith("at lr 0.141. Name smaller rates: --lr LOW --lr HIGH.")
    assert out.endswith("\n\nAdam: UNDECIDED\n")
    assert "stood still" not in out
    assert not (tmp_path / "studies").exists()


SHORT = ("--lrs", "1", "--set", "num_steps=12", "--set", "problem.width=5", "-j", "1")


def test_one_rate_is_run_as_it_is_given_and_its_panel_drawn_where_the_command_says(aeos, tmp_path, monkeypatch):
    code, out, _ = aeos("mine.py:Plain", "--lr", "0.12345", *SHORT, "--out", "here")
    assert code == 3
    assert "Plain: threshold 2 / lr, as found at lr 0.12345\n" in out
    paths = [f"here/figures/aeos-Plain.{kind}" for kind in ("html", "pdf", "png")]
    assert out.endswith("\n\n" + "\n".join(paths) + "\n\nPlain: MISS\n")
    page = (tmp_path / paths[0]).read_text(encoding="utf-8")
    assert "<h1>Plain</h1>" in page
    assert "lr 0.12345" in page
    assert page.count('<span class="badge bad">MISS</span>') == 1
    assert (tmp_path / paths[1]).read_bytes().startswith(b"%PDF")
    assert (tmp_path / paths[2]).read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (tmp_path / paths[0]).unlink()
    _, out, _ = aeos("mine.py:Plain", "--lr", "0.12345", *SHORT, "--out", "here")
    [line] = [line for line in out.splitlines() if "pip install tightrope[print]" in line]
    assert out.endswith(f"\n\n{paths[0]}\n{line}\n\nPlain: MISS\n")
    assert (tmp_path / paths[0]).is_file()
    found = json.loads(aeos("mine.py:Plain", "--lr", "0.12345", *SHORT, "--out", "here", "--json")[1])
    assert (found["figures"], found["lacking"]) == ([paths[0]], line)


def test_where_no_run_could_be_made_nothing_is_drawn(aeos, tmp_path):
    code, out, _ = aeos("mine.py:LeavesInWorkers", "--lr", "0.1", *SHORT)
    assert code == 5
    assert "LeavesInWorkers must take a step without arguments; it raised SystemExit: 9" in out
    assert "figures" not in out
    assert not (tmp_path / "studies/figures").exists()


def test_a_short_panel_from_the_command_misses_and_says_so_as_json(aeos, tmp_path):
    short = ("--lr", "0.1", "--lr", "0.2", "--lrs", "2", "--set", "num_steps=12", "--set", "problem.width=5", "-j", "1")
    code, out, _ = aeos("mine.py:heavy_ball", "--option", "beta=0.5", *short, "--json")
    assert code == 3
    found = json.loads(out)
    assert (found["optimizer"], found["options"], found["lrs"]) == ("mine.py:heavy_ball", {"beta": 0.5}, [0.1, 0.2])
    assert found["threshold"] * found["threshold_lr"] == pytest.approx(3)
    assert [finding["result"] for finding in found["findings"]] == ["PASS"] * 5 + ["MISS"]
    assert found["figure"]["num_done"] == 2
    assert found["lacking"] is None
    assert found["figure"]["findings"][0]["number"].startswith("0 of 2")
    assert found["figures"] == [f"studies/figures/aeos-heavy_ball.{kind}" for kind in ("html", "pdf", "png")]
    assert all((tmp_path / path).is_file() for path in found["figures"])


def test_the_page_shows_what_the_command_finds_of_its_own_example(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "own-optimizer.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    [path, lr] = re.search(r"mine.py:(\w+).*as found at lr ([\d.]+)", page, re.DOTALL).groups()
    method = ForeignRecipe(lr=float(lr), path=f"{tmp_path / 'mine.py'}:{path}", options={"betas": [0.5, 0.99]})
    for finding in examine(method).findings:
        [line] = [line for line in page.splitlines() if line.startswith(finding.claim)]
        shown = [cell for cell in re.split(r"  +", line) if cell]
        assert shown == [finding.claim, finding.number, finding.band, finding.result, finding.why or "-"]
    [toml] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert from_mapping(tomllib.loads(toml)).method.options == {"betas": [0.5, 0.99]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["HandAdam", "Plain"])
def test_five_rates_of_a_good_optimizer_sit_at_their_edge(aeos, name):
    code, out, _ = aeos(f"mine.py:{name}", "-j", "2")
    assert code == 0
    assert f"{name}: PASS" in out


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pytorch_optimizer") is None, reason="needs pytorch_optimizer")
@pytest.mark.filterwarnings("ignore")  # theirs, not ours
def test_an_optimizer_from_a_package_sits_at_its_edge(aeos):
    code, out, _ = aeos("pytorch_optimizer:AdaBelief", "-j", "2")
    assert code == 0
    assert "AdaBelief: threshold 38 / lr" in out


@pytest.mark.parametrize(("num_rates", "at_least"), [(1, 1), (3, 3), (4, 4), (5, 4), (8, 7), (10, 8)])
def test_four_of_five_rates_or_more_must_be_at_the_edge(num_rates, at_least):
    method = ForeignRecipe(lr=1e-3, path="torch.optim:Adam")
    [check] = own_study(method, [10.0**-place for place in range(num_rates)]).checks
    assert check.at_least == at_least
