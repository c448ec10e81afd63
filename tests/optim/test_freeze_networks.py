"""Probing on networks as they are trained: the same optimizers are answered there, and the running one agrees."""

import importlib.util

import pytest

from tests.reference.held import growth
from tests.reference.networks import NETWORKS, trained
from tightrope.optim import freeze

if importlib.util.find_spec("pytorch_optimizer") is None:
    pytest.skip("needs pytorch_optimizer, in the dev extra", allow_module_level=True)

from tests.optim.test_foreign_optimizers import ANSWERED, made

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, not ours
CASES = [(name, options, momenta) for name, options, momenta, _ in ANSWERED]
NAMES = [f"{name} {options}" for name, options, _ in CASES]
# Refused in their first step, and why: it moves nothing, or leaves a second moment no step could come from.
REFUSED_FIRST = {
    "RAdam": "does not go down the gradient",
    "QHAdam": "cannot be held",
    "Aida": "cannot be held",
    "Kate": "cannot be held",
    "AdaBelief": "cannot be held",  # on the scaled network alone
}


def check(name, options, momenta, network, num_steps):
    optimizer, ws = trained(network, lambda ws: made(name, ws, {"lr": 1e-3, **options}), num_steps)
    frozen = freeze(optimizer)
    if num_steps == 1 and frozen.status != "linear":
        assert REFUSED_FIRST.get(name, "nothing") in frozen.reason
        return
    assert (frozen.status, frozen.reason) == ("linear", "")
    assert growth(optimizer, ws, frozen, momenta, 0.99) < 1e-2
    assert growth(optimizer, ws, frozen, momenta, 1.01) > 1e3


@pytest.mark.parametrize(("name", "options", "momenta"), CASES, ids=NAMES)
def test_a_probed_optimizer_has_its_edge_on_a_network_with_dead_units(name, options, momenta):
    check(name, options, momenta, "mlp", 10)


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [1, 10, 100])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("name", "options", "momenta"), CASES, ids=NAMES)
def test_a_probed_optimizer_has_its_edge_on_any_network_at_any_step(name, options, momenta, network, num_steps):
    check(name, options, momenta, network, num_steps)


@pytest.mark.parametrize("network", ["scaled", "cnn"])
@pytest.mark.parametrize("name", ["AdaBelief", "LaProp", "QHAdam", "AdaMax", "Kate"])
def test_gradients_of_all_sizes_and_batchnorm_keep_no_optimizer_from_its_edge(name, network):
    momenta = next(momenta for other, _, momenta in CASES if other == name)
    check(name, {}, momenta, network, 10)


@pytest.mark.parametrize("name", ["AdamP", "SGDP", "StableAdamW", "Lion", "ADOPT", "LARS"])
@pytest.mark.parametrize("network", NETWORKS)
def test_what_is_not_linear_is_refused_on_networks_too(name, network):
    frozen = freeze(trained(network, lambda ws: made(name, ws, {"lr": 1e-3}), 10)[0])
    assert frozen.status == "no_threshold"
    assert "was probed" in frozen.reason
