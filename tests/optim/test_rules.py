"""Every preconditioner rule answers the same questions; Momentum is its transfer function; recipes are presets."""

import cmath
import copy
import math
import pickle

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tightrope.errors import ConfigError, ShapeError
from tightrope.optim import (
    GD,
    RECIPES,
    RMS,
    Accumulated,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    AMSGrad,
    AnyRecipe,
    CustomRecipe,
    Factored,
    FixedDense,
    FixedDiagonal,
    ForeignRecipe,
    GradientMethod,
    HeavyBall,
    Identity,
    Momentum,
    NAdam,
    Nesterov,
    Padam,
    PreconditionerRule,
    Recipe,
    RMSProp,
    RMSprop,
    RuledRecipe,
    heavy_ball,
    nesterov,
    none,
)
from tightrope.optim.recipes import (
    AdafactorRecipe,
    AdaGradRecipe,
    AdamRecipe,
    AdamWRecipe,
    AMSGradRecipe,
    GDRecipe,
    HeavyBallRecipe,
    NAdamRecipe,
    NesterovRecipe,
    PadamRecipe,
    RMSPropRecipe,
)

RULES = {
    "Identity": Identity(),
    "RMS": RMS(),
    "RMS without memory": RMS(beta=0.0, eps=1e-3),
    "RMS corrected": RMS(bias_correction=True),
    "RMS eps inside": RMS(eps=1e-4, eps_inside_root=True),
    "RMS corrected eps inside": RMS(eps=1e-4, bias_correction=True, eps_inside_root=True),
    "RMS fourth root": RMS(power=0.25),
    "RMS running maximum": RMS(running_max=True),
    "RMS started at the gradient": RMS(gradient_init=True, bias_correction=True),
    "RMS running maximum corrected": RMS(running_max=True, bias_correction=True),
    "Accumulated": Accumulated(),
    "Accumulated eps inside": Accumulated(eps=1e-4, initial=0.1, eps_inside_root=True),
    "Factored": Factored(),
    "FixedDiagonal": FixedDiagonal(torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)),
    "FixedDense": FixedDense(torch.tensor([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 3.0]], dtype=torch.float64)),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
GRADIENTS = torch.tensor([[1.0, -2.0, 0.0], [0.3, 0.1, 0.0], [-4.0, 1.0, 1e-3]], dtype=torch.float64)


def weights(dtype=torch.float64):
    return torch.tensor([0.5, -1.0, 2.0], dtype=dtype)


def taken_in(rule, dtype=torch.float64):
    """The rule's state after a few gradients."""
    state = rule.init(weights(dtype), 0)
    for g in GRADIENTS.to(dtype):
        rule.update(state, g)
    return state


def stepped(rule, dtype=torch.float64, momentum=None):
    w = torch.nn.Parameter(weights(dtype))
    optimizer = GradientMethod([w], 0.1, momentum=momentum, preconditioner=rule)
    for g in GRADIENTS.to(dtype):
        w.grad = g
        optimizer.step()
    return optimizer, w


def test_the_contract_is_asked_of_every_final_rule():
    assert {type(rule) for rule in RULES.values()} == set(PreconditionerRule.__subclasses__())
    assert not any(kind.__subclasses__() for kind in PreconditionerRule.__subclasses__())


def test_the_abstract_rule_has_no_instances():
    with pytest.raises(TypeError, match="abstract"):
        PreconditionerRule()


@every_rule
def test_a_preconditioner_is_positive(rule):
    P = rule.diagonal(taken_in(rule), 3)
    if P is not None:
        assert ((P if P.ndim == 1 else torch.linalg.eigvalsh(P)) > 0).all()


@every_rule
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_preconditioner_has_the_shape_and_the_dtype_of_its_parameter(rule, dtype):
    P = rule.diagonal(taken_in(rule, dtype), 3)
    if P is not None:
        assert P.shape == ((3,) if rule.is_diagonal else (3, 3))
        assert P.dtype == dtype


@every_rule
def test_reading_a_preconditioner_changes_nothing(rule):
    state = taken_in(rule)
    before = copy.deepcopy(state)
    torch.testing.assert_close(rule.diagonal(state, 3), rule.diagonal(state, 3), rtol=0, atol=0)
    assert state.keys() == before.keys()
    torch.testing.assert_close(state, before, rtol=0, atol=0)


@every_rule
def test_taking_in_a_gradient_leaves_it_as_it_was(rule):
    g = GRADIENTS[0].clone()
    rule.update(rule.init(weights(), 0), g)
    assert torch.equal(g, GRADIENTS[0])


@every_rule
def test_a_preconditioner_that_is_not_adaptive_ignores_the_gradients(rule):
    at_rest, moved = rule.diagonal(rule.init(weights(), 0), 1), rule.diagonal(taken_in(rule), 1)
    is_same = at_rest is moved or torch.equal(at_rest, moved)
    assert is_same != rule.is_adaptive


@every_rule
def test_a_step_is_the_direction_through_the_inverse_of_the_preconditioner(rule):
    optimizer, w = stepped(rule)
    before = w.detach().clone()
    w.grad = g = torch.tensor([0.2, -0.3, 0.5], dtype=torch.float64)
    optimizer.step()
    P = optimizer.preconditioner(optimizer.param_groups[0], w)
    dense = torch.eye(3, dtype=torch.float64) if P is None else P if P.ndim == 2 else torch.diag(P)
    torch.testing.assert_close(dense @ (before - w.detach()), 0.1 * g, rtol=1e-12, atol=1e-14)


@every_rule
def test_a_rule_steps_in_float32_as_in_float64(rule):
    single, double = stepped(rule, torch.float32)[1], stepped(rule)[1]
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-6)


@every_rule
def test_a_rule_is_frozen(rule):
    with pytest.raises(AttributeError):
        rule.anything = 1
    for field in rule.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(rule, field, 0.5)


@every_rule
def test_a_rule_survives_pickling_and_deep_copying(rule):
    for twin in (pickle.loads(pickle.dumps(rule)), copy.deepcopy(rule)):
        torch.testing.assert_close(twin.diagonal(taken_in(twin), 3), rule.diagonal(taken_in(rule), 3), rtol=0, atol=0)


VALUES = {name: rule for name, rule in RULES.items() if not name.startswith("Fixed")}


@pytest.mark.parametrize("rule", VALUES.values(), ids=VALUES)
def test_a_rule_without_tensors_is_its_configuration(rule):
    table = msgspec.to_builtins(rule)
    configurable = Identity | RMS | Accumulated | Factored
    assert msgspec.convert(table, configurable) == rule
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({**table, "betta": 0.9}, configurable)


FORMULAS = {
    "Identity": "I",
    "RMS": "sqrt(nu) + eps",
    "RMS corrected": "(1-beta1^t) (sqrt(nu/(1-beta2^t)) + eps)",
    "RMS eps inside": "sqrt(nu + eps)",
    "RMS corrected eps inside": "(1-beta1^t) (sqrt(nu/(1-beta2^t) + eps))",
    "RMS fourth root": "(nu)^0.25 + eps",
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_formula_is_the_preconditioner_in_words(name):
    assert RULES[name].formula == FORMULAS[name]


@every_rule
def test_every_rule_has_a_formula(rule):
    assert rule.formula


@pytest.mark.parametrize("name", [name for name in RULES if name.startswith("RMS")])
def test_an_rms_preconditioner_is_its_formula(name):
    rule = RULES[name]
    beta, t, nu = rule.beta, 3, GRADIENTS[0] ** 2 * rule.gradient_init
    for g in GRADIENTS:
        nu = beta * nu + (1 - beta) * g**2
    corrected = nu / (1 - beta**t) if rule.bias_correction else nu
    inside, outside = (rule.eps, 0.0) if rule.eps_inside_root else (0.0, rule.eps)
    expected = (corrected + inside) ** rule.power + outside
    torch.testing.assert_close(rule.diagonal(taken_in(rule), t), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("momentum", [none(), heavy_ball(0.9, ema=True), nesterov(0.8, ema=True)])
@pytest.mark.parametrize("name", ["RMS", "RMS corrected", "RMS corrected eps inside"])
def test_the_correction_of_the_average_gradient_is_carried_in_the_preconditioner(momentum, name):
    rule = RULES[name]
    optimizer, w = stepped(rule, momentum=momentum)
    factor = 1 - momentum.beta**3 if rule.is_bias_corrected else 1.0
    P = optimizer.preconditioner(optimizer.param_groups[0], w)
    torch.testing.assert_close(P, factor * rule.diagonal(optimizer.state[w], 3), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RMS(beta=1.0), r"RMS: beta must be in \[0, 1\); got 1.0"),
        (lambda: RMS(beta=-0.1), "RMS: beta"),
        (lambda: RMS(beta=float("nan")), "RMS: beta"),
        (lambda: RMS(beta="0.9"), "RMS: beta"),
        (lambda: RMS(eps=-1e-8), "RMS: eps must be finite and at least 0; got -1e-08"),
        (lambda: RMS(eps=float("inf")), "RMS: eps"),
        (lambda: RMS(power=0.0), r"RMS: power must be in \(0, 1/2\]; got 0.0"),
        (lambda: RMS(power=0.6), "RMS: power"),
        (lambda: Momentum(beta=1.0), r"Momentum: beta must be in \[0, 1\); got 1.0"),
        (lambda: Momentum(beta=-0.1), "Momentum: beta"),
        (lambda: Momentum(beta=float("nan")), "Momentum: beta"),
        (lambda: Momentum(beta="0.9"), "Momentum: beta"),
        (lambda: Momentum(beta=None), "Momentum: beta"),
        (lambda: Momentum(discount=1.1), r"Momentum: discount must be in \[0, 1\]; got 1.1"),
        (lambda: Momentum(discount=-0.1), "Momentum: discount"),
        (lambda: Momentum(gain=0.0), "Momentum: gain must be positive and finite; got 0.0"),
        (lambda: Momentum(gain=float("inf")), "Momentum: gain"),
        (lambda: heavy_ball(1.0, ema=False), "Momentum: beta"),
        (lambda: nesterov(1.2, ema=False), "Momentum: beta"),
        (lambda: none().stability_threshold(0.0), "lr must be positive; got 0.0"),
        (lambda: none().stability_threshold(-0.1), "lr must be positive"),
        (lambda: none().stability_threshold(float("nan")), "lr must be positive"),
    ],
)
def test_a_hyperparameter_out_of_range_is_a_config_error_of_one_line(make, message):
    with pytest.raises(ConfigError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("P", [[1.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [[1.0, 1.0]], 1.0])
def test_a_fixed_diagonal_that_is_not_a_positive_vector_is_a_shape_error(P):
    with pytest.raises(ShapeError, match="one positive vector"):
        FixedDiagonal(torch.tensor(P))


@pytest.mark.parametrize("P", [[1.0, 1.0], [[1.0, 2.0]], [[1.0, 2.0], [0.0, 1.0]]])
def test_a_fixed_dense_that_is_not_symmetric_is_a_shape_error(P):
    with pytest.raises(ShapeError, match="symmetric matrix"):
        FixedDense(torch.tensor(P))


@pytest.mark.parametrize("P", [[[1.0, 2.0], [2.0, 1.0]], [[0.0, 0.0], [0.0, 1.0]]])
def test_a_fixed_dense_that_is_not_positive_definite_is_a_shape_error(P):
    with pytest.raises(ShapeError, match="positive definite"):
        FixedDense(torch.tensor(P))


momenta = st.builds(Momentum, beta=st.floats(0, 0.95), discount=st.floats(0, 1), gain=st.floats(0.1, 10))
plainly = settings(max_examples=50, deadline=None, derandomize=True, database=None)


def response(momentum, z, num_steps):
    """Direction over gradient after long driving with the gradients Re z^t, for real z or |z| = 1 in two parts."""
    m = torch.zeros(2, dtype=torch.float64) if momentum.needs_state else None
    for t in range(num_steps):
        g = torch.tensor([(z**t).real, (z**t).imag], dtype=torch.float64)
        d = momentum.direction(m, g, t + 1)
    return complex(*d.tolist()) / complex(*g.tolist())


@plainly
@given(momenta, st.floats(0.01, 3.13))
def test_the_transfer_function_is_the_measured_response_to_an_oscillating_gradient(momentum, angle):
    z = cmath.exp(1j * angle)
    assert abs(response(momentum, z, 800) - momentum.transfer(z)) <= 1e-10 * momentum.gain


@plainly
@given(momenta)
def test_the_alternating_gain_is_the_measured_response_to_alternating_gradients(momentum):
    measured = response(momentum, complex(-1), 800)
    assert measured.real == pytest.approx(momentum.alternating_gain, rel=1e-10)
    assert momentum.alternating_gain == pytest.approx(momentum.transfer(-1), rel=1e-12)


@plainly
@given(momenta)
def test_a_constant_gradient_is_scaled_by_the_gain_alone(momentum):
    assert momentum.transfer(1) == pytest.approx(momentum.gain, rel=1e-12)
    assert response(momentum, complex(1), 800).real == pytest.approx(momentum.gain, rel=1e-12)


@plainly
@given(momenta)
def test_a_direction_leaves_the_gradient_as_it_was(momentum):
    g, m = GRADIENTS[0].clone(), torch.ones(3, dtype=torch.float64)
    momentum.direction(m if momentum.needs_state else None, g, 1)
    assert torch.equal(g, GRADIENTS[0])


@plainly
@given(momenta)
def test_a_momentum_rule_is_its_configuration(momentum):
    assert msgspec.convert(msgspec.to_builtins(momentum), Momentum) == momentum
    assert eval(repr(momentum)) == momentum
    assert hash(momentum) == hash(copy.copy(momentum))


def test_a_momentum_rule_is_frozen():
    with pytest.raises(AttributeError):
        none().beta = 0.5


@pytest.mark.parametrize("rule", [none(), Momentum(discount=0.3), heavy_ball(0.0, ema=False), nesterov(0.0, ema=True)])
def test_without_decay_every_momentum_rule_is_the_plain_gradient(rule):
    assert not rule.needs_state
    assert torch.equal(rule.direction(None, GRADIENTS[0], 1), GRADIENTS[0])
    assert rule.alternating_gain == 1


def test_with_a_discount_of_zero_the_average_is_not_heard():
    rule = Momentum(beta=0.9, discount=0.0, gain=2.0)
    assert torch.equal(rule.direction(torch.full((3,), 7.0, dtype=torch.float64), GRADIENTS[0], 1), 2 * GRADIENTS[0])
    assert rule.alternating_gain == pytest.approx(2, rel=1e-15)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("make", [heavy_ball, nesterov])
def test_the_standard_form_is_the_averaged_form_with_a_gain(make, beta):
    standard, ema = make(beta, ema=False), make(beta, ema=True)
    assert standard == Momentum(ema.beta, ema.discount, gain=1 / (1 - beta))


# Each case: the recipe, its name in a file, and the preset with the same hyperparameters.
RECIPE_CASES = [
    (GDRecipe(lr=0.1), "gd", lambda p: GD(p, 0.1)),
    (GDRecipe(lr=0.1, weight_decay=0.2), "gd", lambda p: GD(p, 0.1, weight_decay=0.2)),
    (HeavyBallRecipe(lr=0.1), "heavyball", lambda p: HeavyBall(p, 0.1)),
    (HeavyBallRecipe(lr=0.1, beta1=0.5, ema=True), "heavyball", lambda p: HeavyBall(p, 0.1, 0.5, ema=True)),
    (NesterovRecipe(lr=0.1), "nesterov", lambda p: Nesterov(p, 0.1)),
    (NesterovRecipe(lr=0.1, beta1=0.5, ema=True), "nesterov", lambda p: Nesterov(p, 0.1, 0.5, ema=True)),
    (RMSPropRecipe(lr=0.1), "rmsprop", lambda p: RMSprop(p, 0.1)),
    (RMSPropRecipe(lr=0.1, beta2=0.9, eps=1e-3), "rmsprop", lambda p: RMSprop(p, 0.1, 0.9, 1e-3)),
    (AdamRecipe(lr=0.1), "adam", lambda p: Adam(p, 0.1)),
    (
        AdamRecipe(lr=0.1, beta1=0.5, beta2=0.9, eps=1e-3, bias_correction=False),
        "adam",
        lambda p: Adam(p, 0.1, (0.5, 0.9), 1e-3, bias_correction=False),
    ),
    (AdamWRecipe(lr=0.1), "adamw", lambda p: AdamW(p, 0.1)),
    (
        AdamWRecipe(lr=0.1, weight_decay=0.3, bias_correction=False),
        "adamw",
        lambda p: AdamW(p, 0.1, weight_decay=0.3, bias_correction=False),
    ),
    (AdaGradRecipe(lr=0.1), "adagrad", lambda p: Adagrad(p, 0.1)),
    (AMSGradRecipe(lr=0.1, beta2=0.9), "amsgrad", lambda p: AMSGrad(p, 0.1, beta2=0.9)),
    (PadamRecipe(lr=0.1, power=0.1, running_max=True), "padam", lambda p: Padam(p, 0.1, power=0.1, running_max=True)),
    (NAdamRecipe(lr=0.1, beta1=0.5), "nadam", lambda p: NAdam(p, 0.1, beta1=0.5)),
    (NAdamRecipe(lr=0.1, bias_correction=True), "nadam", lambda p: NAdam(p, 0.1, bias_correction=True)),
    (NAdamRecipe(lr=0.1, momentum_decay=4e-3), "nadam", lambda p: NAdam(p, 0.1, momentum_decay=4e-3)),
    (
        AdamRecipe(lr=0.1, amsgrad=True, gradient_init=True, eps_inside_root=True),
        "adam",
        lambda p: Adam(p, 0.1, amsgrad=True, gradient_init=True, eps_inside_root=True),
    ),
    (AdamWRecipe(lr=0.1, amsgrad=True), "adamw", lambda p: AdamW(p, 0.1, amsgrad=True)),
    (
        AdaGradRecipe(lr=0.1, initial=0.5, eps_inside_root=True),
        "adagrad",
        lambda p: Adagrad(p, 0.1, initial_accumulator_value=0.5, eps_inside_root=True),
    ),
    (RMSPropRecipe(lr=0.1, eps_inside_root=True), "rmsprop", lambda p: RMSprop(p, 0.1, eps_inside_root=True)),
    (AdafactorRecipe(lr=0.1, decay=0.5), "adafactor", lambda p: Adafactor(p, 0.1, decay=0.5)),
    (
        CustomRecipe(
            lr=0.1, momentum_rule=heavy_ball(0.5, ema=True), preconditioner_rule=RMS(beta=0.9, bias_correction=True)
        ),
        "custom",
        lambda p: Adam(p, 0.1, (0.5, 0.9)),
    ),
]
every_recipe = pytest.mark.parametrize(("recipe", "name", "preset"), RECIPE_CASES)


def moved(make):
    """The weights after a few gradients."""
    w = torch.nn.Parameter(weights())
    optimizer = make([w])
    for g in GRADIENTS:
        w.grad = g
        optimizer.step()
    return w.detach()


def test_every_recipe_is_listed_under_its_name():
    assert set(Recipe.__subclasses__()) == {RuledRecipe, ForeignRecipe}
    assert set(RECIPES.values()) == {*RuledRecipe.__subclasses__(), ForeignRecipe}
    assert set(RuledRecipe.__subclasses__()) == {type(recipe) for recipe, *_ in RECIPE_CASES}
    assert all(RECIPES[name] is type(recipe) for recipe, name, _ in RECIPE_CASES)


def test_the_abstract_recipe_has_no_instances():
    with pytest.raises(TypeError, match="abstract"):
        Recipe(lr=0.1)


@every_recipe
def test_a_recipe_builds_the_optimizer_of_its_preset(recipe, name, preset):
    assert torch.equal(moved(recipe.build), moved(preset))


@every_recipe
def test_a_recipe_survives_builtins_and_back(recipe, name, preset):
    table = msgspec.to_builtins(recipe)
    assert table["name"] == name
    assert msgspec.convert(table, AnyRecipe) == recipe


@every_recipe
def test_a_recipe_knows_the_threshold_of_what_it_builds(recipe, name, preset):
    (group,) = recipe.build([torch.nn.Parameter(weights())]).param_groups
    expected = group["momentum"].at(math.inf).stability_threshold(group["lr"], group["weight_decay"])
    assert recipe.stability_threshold() == expected


@every_recipe
def test_a_recipe_with_an_unknown_field_is_refused(recipe, name, preset):
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({**msgspec.to_builtins(recipe), "betta1": 0.9}, AnyRecipe)


@every_recipe
def test_a_recipe_has_a_label(recipe, name, preset):
    assert recipe.label


def test_a_recipe_whose_hyperparameter_is_out_of_range_is_a_config_error_when_built():
    with pytest.raises(ConfigError, match="beta must be"):
        AdamRecipe(lr=0.1, beta1=1.0).build([torch.nn.Parameter(weights())])


LECTURE = [
    (lambda p: Adam(p, 0.1, beta1=0.5, beta2=0.9), lambda p: Adam(p, 0.1, betas=(0.5, 0.9))),
    (lambda p: Adam(p, 0.1, beta1=0.5), lambda p: Adam(p, 0.1, betas=(0.5, 0.999))),
    (lambda p: AdamW(p, 0.1, beta1=0.5, beta2=0.9), lambda p: AdamW(p, 0.1, betas=(0.5, 0.9))),
    (lambda p: AdamW(p, 0.1, beta2=0.9), lambda p: AdamW(p, 0.1, betas=(0.9, 0.9))),
    (lambda p: RMSprop(p, 0.1, beta2=0.9), lambda p: RMSprop(p, 0.1, alpha=0.9)),
    (lambda p: HeavyBall(p, 0.1, beta1=0.5), lambda p: HeavyBall(p, 0.1, 0.5)),
    (lambda p: Nesterov(p, 0.1, beta1=0.5), lambda p: Nesterov(p, 0.1, 0.5)),
]


@pytest.mark.parametrize(("lecture", "torchs"), LECTURE)
def test_the_lecture_spelling_means_what_torchs_does(lecture, torchs):
    assert torch.equal(moved(lecture), moved(torchs))


def test_a_beta_of_zero_in_the_lecture_spelling_is_not_taken_for_absent():
    assert torch.equal(moved(lambda p: Adam(p, 0.1, beta1=0.0)), moved(lambda p: Adam(p, 0.1, betas=(0.0, 0.999))))
    assert torch.equal(moved(lambda p: RMSprop(p, 0.1, beta2=0.0)), moved(lambda p: RMSprop(p, 0.1, alpha=0.0)))


def test_both_spellings_of_rmsprop_name_one_preset():
    assert RMSProp is RMSprop


@pytest.mark.parametrize(
    ("make", "is_decoupled"),
    [
        (lambda p: Adam(p, weight_decay=0.1), False),
        (lambda p: RMSprop(p, weight_decay=0.1), False),
        (lambda p: Adam(p, weight_decay=0.1, decoupled_weight_decay=True), True),
        (lambda p: AdamW(p, weight_decay=0.1), True),
        (lambda p: GD(p, 0.1, weight_decay=0.1), True),
    ],
)
def test_decay_is_coupled_where_torch_couples_it(make, is_decoupled):
    (group,) = make([torch.nn.Parameter(weights())]).param_groups
    assert group["decoupled_weight_decay"] is is_decoupled
