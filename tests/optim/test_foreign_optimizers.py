"""Real third-party optimizers: a number only where the running optimizer agrees with it, else a reason."""

import importlib.util
import inspect
import warnings

import pytest
import torch

from tests.reference.held import growth, parameters, warmed
from tightrope.optim import freeze

if any(importlib.util.find_spec(name) is None for name in ("pytorch_optimizer", "schedulefree")):
    pytest.skip("needs pytorch_optimizer and schedulefree, both in the dev extra", allow_module_level=True)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytorch_optimizer
    import schedulefree

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, not ours
AVERAGE, BUFFER = {"exp_avg"}, {"momentum_buffer"}
LONG = {"betas": (0.9, 0.9999)}
# Answered with a number: the name, its options, its momenta by its own names, and steps to warm it.
ANSWERED = [
    ("APOLLO", {}, AVERAGE, 60),
    ("APOLLO", {"weight_decay": 0.1}, AVERAGE, 60),
    ("AdaBelief", {}, AVERAGE, 60),
    ("AdaBelief", {"weight_decay": 0.1}, AVERAGE, 60),
    ("AdaBelief", {"weight_decay": 0.1, "weight_decouple": False}, AVERAGE, 60),
    ("AdaBelief", {"rectify": True}, AVERAGE, 60),
    ("AdaBelief", {"ams_bound": True}, AVERAGE, 60),
    ("AdaBound", {}, AVERAGE, 60),
    ("AdaBound", {"weight_decay": 0.1}, AVERAGE, 60),
    ("AdaMax", {}, AVERAGE, 60),
    ("AdaMax", {"weight_decay": 0.1}, AVERAGE, 60),
    ("AdaMod", {}, AVERAGE, 1000),
    ("AdamC", {}, AVERAGE, 60),
    ("AdamC", {"weight_decay": 0.1}, AVERAGE, 60),
    ("AdamG", {}, {"m"}, 60),
    ("AdamS", {"weight_decay": 0.1}, AVERAGE, 60),
    ("AdamWSN", {}, AVERAGE, 60),
    ("Aida", {}, AVERAGE, 60),
    ("DualAdam", {}, AVERAGE, 60),
    ("Fira", {}, AVERAGE, 60),
    ("GaLore", {}, AVERAGE, 60),
    ("Kate", {}, set(), 1000),
    ("LaProp", {}, AVERAGE, 60),
    ("NovoGrad", LONG, {"moments"}, 60),
    ("PAdam", {}, AVERAGE, 60),
    ("PID", {}, BUFFER, 60),
    ("QHAdam", {}, AVERAGE, 60),
    ("QHM", {"momentum": 0.9}, BUFFER, 60),
    ("RAdam", {}, AVERAGE, 60),
    ("RAdam", {"weight_decay": 0.1, "foreach": False}, AVERAGE, 60),
    ("SGDSaI", {"weight_decay": 0.1}, BUFFER, 60),
    ("SGDW", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, BUFFER, 60),
    ("SWATS", {}, AVERAGE, 60),
    ("SimplifiedAdEMAMix", {"betas": (0.99, 0.9999)}, AVERAGE, 1000),
]
# Refused: the name, and words of the reason.
NOT_LINEAR, SEVERAL, UNFADING = "is not linear in the gradient", "several memories", "never fades"
NOT_HELD, NO_FLIP = "cannot be held", "does not flip"
REFUSED = {
    "A2Grad": UNFADING,
    "ADOPT": NOT_LINEAR,
    "AccSGD": "decay",
    "AdEMAMix": SEVERAL,
    "AdaDelta": NOT_LINEAR,
    "AdaFactor": "a step of its copy failed",
    "AdaNorm": NOT_LINEAR,
    "AdaPNM": UNFADING,
    "AdaShift": "its 'grad_queue' is kept in a deque",
    "Adai": "forgets differently",
    "Adalite": "neither flips with the gradient nor stays",
    "AdamP": NOT_LINEAR,
    "Adan": SEVERAL,
    "AggMo": SEVERAL,
    "CAME": NOT_HELD,
    "DAdaptSGD": NOT_HELD,
    "DiffGrad": NOT_LINEAR,
    "EmoNavi": "keeps state beside that of its parameters",
    "FTRL": UNFADING,
    "Amos": NOT_LINEAR,
    "Fromage": NOT_LINEAR,
    "Gravity": NO_FLIP,
    "GrokFastAdamW": SEVERAL,
    "LARS": NOT_LINEAR,
    "Lamb": NOT_HELD,
    "Lion": NOT_LINEAR,
    "MADGRAD": "keeps state beside that of its parameters",
    "MARS": SEVERAL,
    "PNM": UNFADING,
    "Prodigy": NOT_HELD,
    "Ranger": NOT_HELD,
    "SGDP": NOT_LINEAR,
    "SM3": NOT_LINEAR,
    "SOAP": NOT_LINEAR,
    "ScalableShampoo": "its 'pre_conditioner' is kept in a PreConditioner",
    "ScheduleFreeAdamW": UNFADING,
    "Shampoo": NOT_LINEAR,
    "SignSGD": NOT_LINEAR,
    "StableAdamW": "large gradients are cut",
    "Tiger": NOT_LINEAR,
    "Yogi": NO_FLIP,
}


def made(name, ws, options):
    return getattr(pytorch_optimizer, name)(ws, **{"lr": 1e-2, **options})


@pytest.mark.parametrize(
    ("name", "options", "momenta", "num_steps"), ANSWERED, ids=[f"{name} {options}" for name, options, *_ in ANSWERED]
)
def test_a_probed_optimizer_converges_below_its_edge_and_diverges_above(name, options, momenta, num_steps):
    ws = parameters()
    optimizer = warmed(made(name, ws, options), ws, num_steps)
    frozen = freeze(optimizer)
    assert (frozen.status, frozen.reason) == ("linear", "")
    assert growth(optimizer, ws, frozen, momenta, 0.99) < 1e-2
    assert growth(optimizer, ws, frozen, momenta, 1.01) > 1e3


@pytest.mark.parametrize("name", REFUSED)
def test_an_optimizer_without_a_linear_method_is_refused_with_the_reason(name):
    ws = parameters()
    frozen = freeze(warmed(made(name, ws, {}), ws))
    assert frozen.status == "no_threshold"
    assert name in frozen.reason
    assert REFUSED[name] in frozen.reason
    assert frozen.D is None


def own_classes():
    found = (getattr(pytorch_optimizer, name) for name in sorted(vars(pytorch_optimizer)))
    kinds = [kind for kind in found if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer)]
    return [kind for kind in kinds if kind.__module__.startswith("pytorch_optimizer.")]


@pytest.mark.parametrize("kind", own_classes(), ids=lambda kind: kind.__name__)
def test_no_class_gets_a_number_that_is_not_verified_here(kind):
    ws = parameters()
    try:
        optimizer = warmed(kind(ws, lr=1e-2), ws)
    except Exception as error:
        pytest.skip(f"needs more than parameters and gradients: {type(error).__name__}")
    frozen = freeze(optimizer)
    is_verified = kind.__name__ in {name for name, *_ in ANSWERED}
    assert is_verified if frozen.status == "linear" else frozen.reason


@pytest.mark.parametrize("kind", ["SGDScheduleFree", "AdamWScheduleFree", "RAdamScheduleFree"])
def test_a_schedule_free_optimizer_is_refused_for_its_second_copy_of_the_weights(kind):
    ws = parameters()
    optimizer = getattr(schedulefree, kind)(ws, lr=1e-2)
    optimizer.train()
    frozen = freeze(warmed(optimizer, ws))
    assert frozen.status == "no_threshold"
    assert UNFADING in frozen.reason
    optimizer.eval()
    assert freeze(optimizer).status == "no_threshold"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda ws: pytorch_optimizer.Lookahead(torch.optim.Adam(ws)),
        lambda ws: pytorch_optimizer.SAM(ws, torch.optim.SGD, lr=0.1),
        lambda ws: schedulefree.ScheduleFreeWrapper(torch.optim.SGD(ws, 0.1), momentum=0.9),
    ],
)
def test_a_wrapper_that_changes_the_steps_is_refused_and_names_what_it_wraps(wrap):
    frozen = freeze(wrap(parameters()))
    assert frozen.status == "no_threshold"
    assert "wraps" in frozen.reason
    assert "register_reader" in frozen.reason
