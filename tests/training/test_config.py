"""The configuration: to TOML and back, and what it says of mistakes."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightrope.errors import ConfigError
from tightrope.optim import RECIPES, RMS, Constant, Cosine, Momentum, WarmRestarts
from tightrope.problems import Chebyshev, Digits, Quadratic
from tightrope.training import PRESETS, RunConfig, StopConfig, from_mapping, load, override, preset, recipe_from

positive = st.floats(min_value=1e-12, max_value=1e6)
unit = st.floats(min_value=0, max_value=0.9999)
methods = st.one_of(
    st.builds(RECIPES["gd"], lr=positive, weight_decay=st.just(0.0) | st.just(1e-7)),
    st.builds(RECIPES["heavyball"], lr=positive, beta1=unit, ema=st.booleans()),
    st.builds(RECIPES["adam"], lr=positive, beta1=unit, beta2=unit, eps=positive, bias_correction=st.booleans()),
    st.builds(
        RECIPES["custom"],
        lr=positive,
        momentum_rule=st.builds(Momentum, beta=unit, discount=st.floats(0, 1), gain=positive),
        preconditioner_rule=st.builds(RMS, beta=unit, eps=positive),
    ),
)
problems = st.one_of(
    st.builds(Digits, hidden=st.lists(st.integers(1, 9), max_size=3).map(tuple), loss=st.sampled_from(["mse"])),
    st.builds(Chebyshev, degree=st.integers(0, 9)),
    st.just(Quadratic(curvatures=(1.0, -2.0), start=(0.5, 3.0))),
)
configs = st.builds(
    RunConfig,
    problem=problems,
    method=methods,
    schedule=st.sampled_from([Constant(), Cosine(num_steps=9, num_warmup=2), WarmRestarts(period=3)]),
    num_steps=st.integers(1, 10**6),
    batch_size=st.none() | st.integers(1, 100),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(["float32", "float64"]),
    stop=st.builds(StopConfig, loss=st.none() | positive),
)


@given(configs)
def test_a_configuration_survives_toml(config):
    assert from_mapping(tomllib.loads(config.to_toml())) == config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_valid_configuration_that_survives_toml(name):
    config = from_mapping(preset(name))
    assert from_mapping(tomllib.loads(config.to_toml())) == config


def demo(*settings):
    return from_mapping(override(preset("digits-adam"), settings))


def test_a_setting_is_found_by_its_last_name_or_its_path():
    assert demo("lr=1e-4").method.lr == 1e-4
    assert demo("method.lr=.5").method.lr == 0.5
    assert demo("num_steps=7").num_steps == 7
    assert demo("measure.every=3").measure.every == 3
    assert demo("problem.loss=cross_entropy").problem.loss == "cross_entropy"
    assert demo("hidden=[4, 5]").problem.hidden == (4, 5)
    assert demo("bias_correction=true").method.bias_correction is True


def test_choosing_another_method_keeps_lr_and_decay_where_the_preset_has_them():
    config = demo("method=rmsprop", "beta2=0.9")
    assert config.method == RECIPES["rmsprop"](lr=4e-4, beta2=0.9)
    assert demo("lr=9", "method=rmsprop").method.lr == 9


def test_a_schedule_is_chosen_by_name_and_set_by_path():
    config = demo("schedule=cosine", "schedule.num_steps=50", "floor=0.1")
    assert config.schedule == Cosine(num_steps=50, floor=0.1)
    assert demo().schedule == Constant()


def test_a_rule_of_a_custom_method_can_be_set_by_path():
    config = demo("method=custom", "method.momentum_rule.beta=0.5")
    assert config.method.momentum == Momentum(beta=0.5)


def test_the_presets_are_not_changed_by_overriding():
    before = demo()
    demo("lr=9", "measure.every=1")
    assert demo() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["lrr=1"], "--set lrr: not a setting. Did you mean 'lr'?"),
        (["method.beta3=1"], "--set method.beta3: not a setting. Did you mean 'method.beta2', 'method.beta1', "),
        (["BETA3=1"], "--set BETA3: not a setting. Did you mean 'beta2', 'beta1' or 'eta'?"),
        (
            ["nosuch=1"],
            "--set nosuch: not a setting. Known: average_restarts, num_steps, batch_size, seed, dtype, device, "
            "checkpoint_seconds, and those of the tables problem, method, schedule, sam, clipping, freeze, measure, "
            "stop, as measure.every.",
        ),
        (["lr=-1"], "method.lr: must be positive and finite; got -1.0."),
        (["lr=nan"], "method.lr: numbers must be at most 1e+30 in size; got nan."),
        (["lr=0.1\nnum_steps=3"], "method.lr: Expected `float`, got `str`"),
        (["clipping.max_norm=1"], "--set clipping.max_norm: [clipping] must be named before its settings. Set clip"),
        (
            ["method=custom", "method.momentum_rule.bta=.5"],
            "method.momentum_rule.bta: not a setting. Did you mean 'beta'",
        ),
        (
            ["method=custom", "method.preconditioner_rule.name=rmss"],
            "method.preconditioner_rule.name: 'rmss' is not known. Did",
        ),
        (["method=custom", "method.preconditioner_rule.beta=.5"], "method.preconditioner_rule.name: must be given."),
        (["lr=abc"], "method.lr: Expected `float`, got `str` (the value is 'abc')."),
        (["lr"], "--set: must be key=value; got 'lr'."),
        (["=3"], "--set: must be key=value"),
        (["loss=1"], "--set loss: could mean problem.loss or stop.loss"),
        (["beta1=1.2"], "Momentum: beta must be in [0, 1); got 1.2."),
        (["beta2=1.0"], "RMS: beta must be in [0, 1); got 1.0."),
        (["method=adm"], "method.name: 'adm' is not known. Did you mean 'adam'?"),
        (["problem=digit"], "problem.name: 'digit' is not known. Did you mean 'digits'?"),
        (["problem.loss=mae"], "problem.loss: 'mae' is not known. Did you mean 'mse'?"),
        (["dtype=float16"], "dtype: must be 'float32' or 'float64'; got 'float16'."),
        (["num_steps=0"], "num_steps: Expected `int` >= 1"),
        (["num_steps=1.5"], "num_steps: Expected `int`"),
        (["hidden=[0]"], "problem.hidden: widths must be at least 1"),
        (["measure=3"], "--set measure: not a setting. Did you mean 'measure.rtol', 'measure.every', "),
        (["weight_decay=-1"], "method.weight_decay: must be finite and at least 0"),
        (["rtol=0"], "measure.rtol: must be positive"),
        (["schedule=cosin"], "schedule.name: 'cosin' is not known. Did you mean 'cosine'?"),
        (["schedule=cosine"], "schedule: Object missing required field `num_steps`"),
        (["seed=-1"], "seed: Expected `int` >= 0 (the value is -1)"),
        (["seed=99999999999999999999"], "seed: Expected `int`"),
        (
            ["method=custom", "method.momentum_rule=3", "method.momentum_rule.beta=.5"],
            "--set method.momentum_rule.beta:",
        ),
        (["method=adamw", "lr=1", "weight_decay=3"], "stability_threshold: lr * weight_decay must be below 2"),
        (["divergence=1"], "stop.divergence: must be above 1"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_setting(settings, message):
    with pytest.raises(ConfigError) as error:
        demo(*settings)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["measure", "method.beta3", "m", "name.name", "a", "e" * 40])
def test_at_most_five_settings_are_offered_for_one_that_is_not_there(key):
    with pytest.raises(ConfigError, match=r"not a setting\.") as error:
        demo(f"{key}=1")
    assert str(error.value).count("' or '") + str(error.value).count("', '") < 5


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({}, "configuration: Object missing required field `problem`."),
        ({"problem": {"name": "digits"}}, "configuration: Object missing required field `method`."),
        (
            {"problem": {}},
            "problem.name: must be given. Known: chebyshev, cifar10, cifar100, digits, imagenet, quadratic, sequences, "
            "translation.",
        ),
        ({"problem": {"name": "digits"}, "method": {"name": "gd"}}, "method: Object missing required field `lr`"),
        ({"problem": "digits", "method": {"name": "gd", "lr": 1.0}}, "problem:"),
        ({"problem": {"name": "digits"}, "method": {"name": "gd", "lr": 1.0}, "stpe": 1}, "stpe: not a setting."),
        ({"problem": {"name": "digits"}, "method": {"name": "gd", "lr": 1.0, "beta1": 0.9}}, "method.beta1:"),
    ],
)
def test_a_mapping_that_is_no_configuration_is_explained(mapping, message):
    with pytest.raises(ConfigError) as error:
        from_mapping(mapping)
    assert str(error.value).startswith(message)


def test_a_file_that_cannot_be_read_or_parsed_is_named(tmp_path):
    with pytest.raises(ConfigError, match="must be a readable TOML file"):
        load(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("lr = = 1")
    with pytest.raises(ConfigError, match="must be TOML"):
        load(tmp_path / "bad.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="must be TOML"):
        load(tmp_path / "binary.toml")


def test_a_method_is_made_from_text():
    assert recipe_from("adamw", {"lr": "1e-3", "beta1": ".5", "bias_correction": "false"}) == RECIPES["adamw"](
        lr=1e-3, beta1=0.5, bias_correction=False
    )


def test_a_run_made_of_names_is_refused():
    with pytest.raises(ConfigError, match="problem: must be a value such as"):
        RunConfig(problem="digits", method="adam")
    with pytest.raises(ConfigError, match="num_steps: must be a whole number, at least 1; got 0"):
        RunConfig(problem=Chebyshev(), method=RECIPES["gd"](lr=0.1), num_steps=0)
