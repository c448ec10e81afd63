"""AdaGrad, AMSGrad, Padam, Nadam and Adafactor: their trajectories, their P, and torch's cousins of them."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.reference import methods
from tightrope.errors import UnsupportedOptimizerError
from tightrope.optim import (
    RMS,
    Accumulated,
    Adafactor,
    AdaGrad,
    Adagrad,
    AMSGrad,
    Factored,
    GradientMethod,
    NAdam,
    Padam,
    freeze,
)

START = np.array([-1.2, 1.0, 0.5, -0.3, 0.8, 1.5])
STEPS = 120


def valley(w):
    rise = w[1:] - w[:-1] ** 2
    return (2 * rise**2).sum() + ((1 - w[:-1]) ** 2).sum() / 2


def run(make, start=START, num_steps=STEPS, loss=valley):
    w = torch.nn.Parameter(torch.tensor(start))
    optimizer, path = make([w]), [start]
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss(w).backward()
        optimizer.step()
        path.append(w.detach().numpy().copy())
    return np.array(path), optimizer


BETAS = {"b1": 0.9, "b2": 0.99}
OURS = {"beta1": 0.9, "beta2": 0.99, "eps": 1e-6}
PATHS = {
    "AdaGrad": (lambda p: Adagrad(p, 0.3, eps=1e-6), methods.adagrad, {"lr": 0.3, "eps": 1e-6}),
    "AdaGrad, L2": (
        lambda p: AdaGrad(p, 0.3, weight_decay=0.2, initial_accumulator_value=0.5, eps=1e-6),
        methods.adagrad,
        {"lr": 0.3, "eps": 1e-6, "l2": 0.2, "start": 0.5},
    ),
    "AMSGrad": (lambda p: AMSGrad(p, 0.01, **OURS), methods.amsgrad, {"lr": 0.01, "eps": 1e-6, **BETAS}),
    "Padam": (
        lambda p: Padam(p, 0.01, **OURS),
        methods.adam_uncorrected,
        {"lr": 0.01, "eps": 1e-6, "power": 0.25, **BETAS},
    ),
    "Padam, running maximum": (
        lambda p: Padam(p, 0.01, **OURS, power=0.125, running_max=True),
        methods.amsgrad,
        {"lr": 0.01, "eps": 1e-6, "power": 0.125, **BETAS},
    ),
    "Nadam": (lambda p: NAdam(p, 0.01, **OURS), methods.nadam, {"lr": 0.01, "eps": 1e-6, **BETAS}),
}


@pytest.mark.parametrize("name", PATHS)
def test_a_method_follows_its_reference(name):
    make, reference, hyperparameters = PATHS[name]
    path, _ = run(make)
    np.testing.assert_allclose(
        path, reference(methods.rosenbrock_gradient, START, STEPS, **hyperparameters), rtol=0, atol=1e-12
    )


def test_adafactor_follows_its_reference_on_a_matrix():
    W = np.random.default_rng(0).normal(size=(3, 4))
    A = np.random.default_rng(1).normal(size=(3, 3))

    def grad(W):
        return A.T @ A @ W + W**3

    path, _ = run(
        lambda p: Adafactor(p, 0.02, beta1=0.9, decay=0.8, eps=1e-7),
        W,
        loss=lambda w: (torch.tensor(A) @ w).square().sum() / 2 + w.pow(4).sum() / 4,
    )
    expected = methods.adafactor(grad, W, STEPS, lr=0.02, b1=0.9, decay=0.8, eps=1e-7)
    np.testing.assert_allclose(path, expected, rtol=0, atol=1e-12)


def test_adafactor_keeps_a_number_a_row_and_a_number_a_column():
    w = torch.nn.Parameter(torch.randn(7, 5))
    w.grad = torch.randn(7, 5)
    optimizer = Adafactor([w], 1e-3)
    optimizer.step()
    kept = {name: value.shape for name, value in optimizer.state[w].items() if name in ("rows", "columns", "nu")}
    assert kept == {"rows": (7,), "columns": (5,)}
    assert freeze(optimizer).P.shape == (35,)


def test_the_factored_second_moment_is_exact_for_a_gradient_of_rank_one():
    g = torch.outer(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 1.0])).double()
    rule = Factored(eps=0.0)
    state = rule.init(g, 0)
    rule.update(state, g)
    torch.testing.assert_close(rule.diagonal(state, 1), g.abs(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda p: Adagrad(p, 0.3), lambda p: torch.optim.Adagrad(p, 0.3)),
        (
            lambda p: Adagrad(p, 0.3, weight_decay=0.1, initial_accumulator_value=0.2),
            lambda p: torch.optim.Adagrad(p, 0.3, weight_decay=0.1, initial_accumulator_value=0.2),
        ),
        (lambda p: AMSGrad(p, 0.01, bias_correction=True), lambda p: torch.optim.Adam(p, 0.01, amsgrad=True)),
    ],
    ids=["Adagrad", "Adagrad with decay and a start", "AMSGrad corrected"],
)
def test_a_method_equals_torchs_of_the_same_rule(ours, theirs):
    np.testing.assert_allclose(run(ours)[0], run(theirs)[0], rtol=0, atol=1e-12)


def test_the_papers_amsgrad_never_lowers_its_preconditioner_and_torchs_does():
    def falls(rule):
        state, seen = rule.init(torch.zeros(1).double(), 0), []
        for t, g in enumerate((3.0, 0.1, 0.1, 0.1), start=1):
            rule.update(state, torch.tensor([g]).double())
            seen.append(float(rule.diagonal(state, t)))
        return any(after < before for before, after in pairwise(seen))

    assert not falls(RMS(running_max=True))
    assert falls(RMS(running_max=True, bias_correction=True))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Accumulated(eps=0.1), np.sqrt(4 + 9) + 0.1),
        (Accumulated(eps=0.1, eps_inside_root=True), np.sqrt(4 + 9 + 0.1)),
        (Accumulated(eps=0.1, initial=3.0), np.sqrt(16) + 0.1),
        (RMS(beta=0.5, eps=0.1, running_max=True), np.sqrt(0.5 * 9) + 0.1),
        (RMS(beta=0.5, eps=0.1, power=0.25), (0.25 * 9 + 0.5 * 4) ** 0.25 + 0.1),
    ],
)
def test_a_preconditioner_is_its_formula(rule, expected):
    state = rule.init(torch.zeros(1).double(), 0)
    for g in (3.0, 2.0):
        rule.update(state, torch.tensor([g]).double())
    assert float(rule.diagonal(state, 2)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "threshold"),
    [
        (lambda p: Adagrad(p, 0.1), 20),
        (lambda p: AMSGrad(p, 0.1), 380),
        (lambda p: Padam(p, 0.1), 380),
        (lambda p: NAdam(p, 0.1), 3.8 / (0.1 * 0.1 * 2.8)),
        (lambda p: Adafactor(p, 0.1), 380),
    ],
)
def test_a_method_has_the_threshold_of_its_momentum(make, threshold):
    assert freeze(make([torch.nn.Parameter(torch.zeros(2, 2))])).stability_threshold() == pytest.approx(threshold)


@pytest.mark.parametrize("side", [0.99, 1.01])
@pytest.mark.parametrize(
    "make",
    [
        lambda p, lr: Adagrad(p, lr),
        lambda p, lr: AMSGrad(p, lr),
        lambda p, lr: Padam(p, lr),
        lambda p, lr: NAdam(p, lr),
        lambda p, lr: Adafactor(p, lr),
    ],
    ids=["AdaGrad", "AMSGrad", "Padam", "Nadam", "Adafactor"],
)
def test_a_method_frozen_after_a_few_steps_converges_below_its_edge_and_diverges_above(make, side):
    torch.manual_seed(0)
    H = torch.diag(torch.linspace(0.5, 2, 6)).double()
    w = torch.nn.Parameter(torch.randn(2, 3).double())
    optimizer = make([w], 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        (w.flatten() @ H @ w.flatten() / 2).backward()
        optimizer.step()
    optimizer.freeze_preconditioner()
    half = freeze(optimizer).half_scaling()
    ratio = float(torch.linalg.eigvalsh(half[:, None] * H * half)[-1])
    optimizer.param_groups[0]["lr"] *= side / ratio
    with torch.no_grad():
        w.copy_(torch.randn(2, 3))
    for _ in range(4000):
        optimizer.zero_grad()
        (w.flatten() @ H @ w.flatten() / 2).backward()
        optimizer.step()
    assert (float(w.detach().norm()) < 1e-3) == (side < 1)


@pytest.mark.parametrize("name", ["Adadelta", "Rprop", "LBFGS", "ASGD", "SparseAdam", "Muon"])
def test_an_optimizer_without_a_linear_method_is_refused_with_the_reason(name):
    frozen = freeze(getattr(torch.optim, name)([torch.nn.Parameter(torch.zeros(2, 2))]))
    assert frozen.status == "no_threshold"
    assert frozen.reason.startswith(f"{name}: ")


@pytest.mark.parametrize(("t", "in_lr"), [(1, 1.94), (10, 3.49), (1000, 3.93)])
def test_torchs_nadam_starts_far_below_its_asymptotic_threshold(t, in_lr):
    w = torch.nn.Parameter(torch.ones(2).double())
    optimizer = torch.optim.NAdam([w], lr=0.5)
    for _ in range(t):
        w.grad = torch.ones_like(w)
        optimizer.step()
    assert freeze(optimizer).stability_threshold() * 0.5 == pytest.approx(in_lr, abs=5e-3)


def test_a_custom_group_may_mix_rules_that_need_shapes_with_flat_ones():
    ws = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(3))]
    groups = [{"params": ws[:1], "preconditioner": Factored()}, {"params": ws[1:], "preconditioner": Accumulated()}]
    optimizer = GradientMethod(groups, lr=0.1)
    for w in ws:
        w.grad = torch.ones_like(w)
    optimizer.step()
    assert freeze(optimizer).P.shape == (9,)


def test_a_subclass_that_takes_steps_of_its_own_is_refused():
    class SignSGD(torch.optim.SGD):
        def step(self, closure=None):
            for w in self.param_groups[0]["params"]:
                w.data.sub_(w.grad.sign(), alpha=self.param_groups[0]["lr"])

    class Renamed(torch.optim.SGD):
        pass

    w = torch.nn.Parameter(torch.zeros(2))
    assert "is not linear in the gradient" in freeze(SignSGD([w], 0.1)).reason
    assert freeze(Renamed([w], 0.1)).stability_threshold() == pytest.approx(20)


def test_freezing_what_is_no_optimizer_is_refused():
    with pytest.raises(UnsupportedOptimizerError, match="needs a torch optimizer; got str"):
        freeze("adam")
