"""Somebody else's optimizer as a configuration: run, resumed and refused as our own methods are."""

import importlib.util
import json

import pytest
import torch

from tightrope.cli import main
from tightrope.errors import ConfigError, StoreError
from tightrope.optim import RECIPES, ForeignRecipe
from tightrope.problems import Chebyshev
from tightrope.store import read_run
from tightrope.studies import run_key
from tightrope.training import MeasureConfig, RunConfig, from_mapping, load, override, resume, run
from tightrope.training.checkpoint import load as load_checkpoint
from tightrope.training.optimizer_state import foreign_state, load_foreign_state

from ..studies import own
from .test_resume import events_of


def config_of(name, options=None, place="tests.studies.own", **more):
    method = ForeignRecipe(lr=more.pop("lr", 1e-2), path=f"{place}:{name}", options=options or {})
    settings = {"num_steps": 24, "dtype": "float64", "measure": MeasureConfig(every=6), "checkpoint_seconds": 0, **more}
    return RunConfig(problem=Chebyshev(width=10), method=method, **settings)


def stopped_at(step):
    def observe(progress):
        if progress.step == step:
            raise KeyboardInterrupt

    return observe


def stopped_and_resumed(config, tmp_path, step=10):
    run(config, out=tmp_path / "alone")
    assert run(config, out=tmp_path / "stopped", observe=stopped_at(step)).outcome == "interrupted"
    assert resume(tmp_path / "stopped").outcome == "completed"
    events = [
        [e for e in events_of(tmp_path / name) if e["type"] in ("step", "measurement")] for name in ("alone", "stopped")
    ]
    return events


def test_adam_written_by_hand_runs_as_our_adam_does(tmp_path):
    ours = RunConfig(
        problem=Chebyshev(width=10), method=RECIPES["adam"](lr=1e-2), num_steps=24, dtype="float64",
        measure=MeasureConfig(every=6),
    )  # fmt: skip
    theirs = run(config_of("HandAdam"), out=tmp_path / "theirs")
    expected = run(ours, out=tmp_path / "ours")
    assert theirs.steps["loss"] == pytest.approx(expected.steps["loss"], rel=1e-12)
    for column in ("ratio", "threshold"):
        assert theirs.measurements[column] == pytest.approx(expected.measurements[column], rel=1e-6)
    assert theirs.start["method"] == "HandAdam"
    assert theirs.start["threshold"] is None


@pytest.mark.parametrize(
    ("name", "options"),
    [("HandAdam", {"betas": [0.5, 0.99]}), ("WholeNumbers", {}), ("heavy_ball", {"nesterov": True}), ("Plain", {})],
)
def test_a_run_that_was_stopped_equals_one_left_alone(tmp_path, name, options):
    alone, resumed = stopped_and_resumed(config_of(name, options), tmp_path)
    assert alone == resumed


def test_a_refusal_is_remembered_across_a_stop(tmp_path):
    alone, resumed = stopped_and_resumed(config_of("SignDescent", measure=MeasureConfig(every=2)), tmp_path)
    assert alone == resumed
    reasons = {event["reason"] for event in alone if event["type"] == "measurement" and event["step"] > 1}
    assert all("SignDescent was probed and has no frozen method" in reason for reason in reasons)


def test_what_an_optimizer_keeps_outside_its_state_is_lost_and_shows(tmp_path):
    alone, resumed = stopped_and_resumed(config_of("Forgetful"), tmp_path)
    assert alone[:10] == resumed[:10]
    assert alone != resumed


def test_groups_keep_rates_of_their_own_under_a_schedule(tmp_path):
    config = from_mapping(override(as_mapping("two_rates"), ["schedule=step_decay", "schedule.every=12", "lr=0.1"]))
    record = run(config, out=tmp_path / "run")
    state = read_groups(tmp_path / "run")
    factor = config.schedule(config.num_steps - 1)
    assert factor < 1
    assert state == [pytest.approx(0.1 * factor), pytest.approx(0.025 * factor)]
    assert record.steps["lr"][-1] == pytest.approx(0.1 * factor)
    assert [m for m in record.measurements["threshold"] if m == m] == []  # each group has its own


def test_an_optimizer_that_sets_its_own_rate_is_left_to_it(tmp_path):
    alone, resumed = stopped_and_resumed(config_of("Cooling", lr=0.1), tmp_path)
    assert alone == resumed
    thresholds = read_run(tmp_path / "alone").measurements["threshold"]
    steps = read_run(tmp_path / "alone").measurements["step"]
    assert thresholds == pytest.approx(2 / (0.1 * 0.9**steps))


def read_groups(path):
    """The learning rates of the groups in a run's last checkpoint."""
    whole = load_checkpoint(path)["session"]["optimizer"]["whole"]
    groups = whole[str(whole["keys"].index("param_groups"))]
    return [groups[str(i)][str(groups[str(i)]["keys"].index("lr"))] for i in range(len(groups) - 2)]


def test_sam_goes_around_a_foreign_optimizer_and_is_resumed(tmp_path):
    alone, resumed = stopped_and_resumed(from_mapping(override(as_mapping("HandAdam"), ["sam.rho=0.01"])), tmp_path)
    assert alone == resumed


def as_mapping(name):
    import tomllib

    return tomllib.loads(config_of(name).to_toml())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("Nothing", {}, "must have 'Nothing'; it has nothing of that name"),
        ("SOMETHING", {}, "must be an optimizer class or what makes one; got int"),
        ("no_optimizer", {}, "must make a torch.optim.Optimizer; got str"),
        ("HandAdam", {"beta": 0.9}, "unexpected keyword argument 'beta'"),
        ("HandAdam", {"lr": 0.9}, "must be keywords beside params and lr; got 'lr'"),
        ("HandAdam", {"a-b": 0.9}, "must be keywords beside params and lr; got 'a-b'"),
        ("Closed", {}, "must take a step without arguments; it raised TypeError"),
        ("Leaving", {}, "Leaving must take a step without arguments; it raised SystemExit: 7"),
        ("leaving_at_once", {}, "must make an optimizer; it raised SystemExit: 8"),
        ("Queue", {}, "Queue['state'][0]['queue'] holds a deque, which cannot be stored without pickle"),
        ("Sharing", {}, "must have memory of their own"),
        ("Narrow", {}, "must change its parameters in place"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_nothing_is_written(tmp_path, name, options, words):
    with pytest.raises(ConfigError) as raised:
        run(config_of(name, options), out=tmp_path / "run")
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_leaves_in_the_middle_of_a_run_is_one_line_and_the_steps_before_it_are_stored(tmp_path):
    with pytest.raises(ConfigError, match="LeavesLate must take a step without arguments; it raised SystemExit: 7"):
        run(config_of("LeavesLate", num_steps=120, measure=MeasureConfig(every=0)), out=tmp_path / "run")
    record = read_run(tmp_path / "run")
    assert (record.outcome, len(record.steps["step"])) == ("unfinished", 101)


def test_an_interrupt_in_a_step_ends_the_run_as_ctrl_c_does(tmp_path):
    record = run(config_of("Interrupting", measure=MeasureConfig(every=0)), out=tmp_path / "run")
    assert (record.outcome, len(record.steps["step"])) == ("interrupted", 6)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("nowhere.at.all:Adam", "there must be a module nowhere.at.all"),
        ("nowhere.py:Adam", "nowhere.py must be a file"),
        ("broken.py:Adam", "importing broken.py:Adam must succeed; it raised ZeroDivisionError: division by zero"),
        ("Adam", "name it as pkg.mod:Name"),
    ],
)
def test_the_command_says_in_one_line_what_is_wrong_with_a_path(tmp_path, monkeypatch, capsys, path, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "my.toml").write_text(config_of("Plain").to_toml())
    with pytest.raises(SystemExit) as end:
        main(["run", "my.toml", "--set", f"method.path={path}", "--out", "here"])
    err = capsys.readouterr().err
    assert (end.value.code, err.count("\n")) == (2, 1)
    assert words in err
    assert not (tmp_path / "here").exists()


def test_a_file_is_a_place_too_and_its_options_can_be_set(tmp_path):
    place = own.__file__
    (tmp_path / "my.toml").write_text(config_of("heavy_ball", place=place).to_toml())
    config = from_mapping(override(load(tmp_path / "my.toml"), ["method.options.beta=0.5", "lr=2e-2"]))
    assert config.method.options == {"beta": 0.5}
    record = run(config, out=tmp_path / "run")
    assert record.measurements["threshold"] == pytest.approx([2 * 1.5 / 2e-2] * len(record.measurements["step"]))


def test_the_order_of_options_makes_no_other_run():
    a, b = config_of("HandAdam", {"eps": 1e-7, "betas": [0.9, 0.99]}), config_of("HandAdam", {})
    c = config_of("HandAdam", {"betas": [0.9, 0.99], "eps": 1e-7})
    assert run_key(a) == run_key(c) != run_key(b)


def test_code_that_was_changed_since_is_not_taken_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "mine.py"
    source.write_text("import torch\ndef make(params, lr):\n    return torch.optim.SGD(params, lr=lr)\n")
    run(config_of("make", place="mine.py"), out="run", observe=stopped_at(5))
    source.write_text(source.read_text().replace("lr=lr", "lr=lr / 2"))
    with pytest.raises(StoreError, match="resume: versions must be those of the checkpoint"):
        resume("run")
    assert resume("run", is_strict=False).outcome == "completed"


def test_a_state_survives_storing_with_its_kinds_and_dtypes():
    w = torch.nn.Parameter(torch.zeros(3))
    optimizer = own.Plain([w], lr=1.0)
    kept = {
        "wide": torch.ones(3, dtype=torch.float64),
        "whole": torch.tensor(2**40 + 1),
        "parts": [1, 2.5, (None, True, "text")],
        "a/b": {3: torch.arange(2), "x": {}},
    }
    optimizer.state[w].update(kept)
    stored = json_and_back(foreign_state(optimizer))
    other = own.Plain([w], lr=1.0)
    load_foreign_state(other, stored)
    assert repr(dict(other.state[w])) == repr(kept)
    assert other.state[w]["wide"].dtype == torch.float64


def json_and_back(value):
    """As a checkpoint keeps it: tensors apart, the rest as JSON."""
    if isinstance(value, dict):
        return {name: json_and_back(part) for name, part in value.items()}
    return value if isinstance(value, torch.Tensor) else json.loads(json.dumps(value))


@pytest.mark.skipif(importlib.util.find_spec("pytorch_optimizer") is None, reason="needs pytorch_optimizer")
@pytest.mark.filterwarnings("ignore")  # theirs, not ours
def test_an_optimizer_from_a_package_runs_and_is_resumed(tmp_path):
    alone, resumed = stopped_and_resumed(config_of("AdaBelief", place="pytorch_optimizer"), tmp_path)
    assert alone == resumed
    record = read_run(tmp_path / "alone")
    assert (record.measurements["ratio"] > 0).all()
    assert record.measurements["threshold"] == pytest.approx([3800.0] * 5)
