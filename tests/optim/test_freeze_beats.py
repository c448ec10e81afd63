"""Methods that no single step shows: gathered gradients, looking ahead, a rate that comes and goes.

And what an optimizer keeps beside its state, which probing must neither change nor stumble over.
"""

import pytest
import torch

from tests.reference.held import fill, flat, parameters, warmed
from tightrope.optim import freeze

TORCH = torch.optim


class Counting(TORCH.Optimizer):
    """Gradient descent that counts its steps; `turn` says what step number t does with a parameter."""

    def __init__(self, params, lr=0.01, every=4):
        TORCH.Optimizer.__init__(self, params, {"lr": lr, "every": every})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    state = self.state[w]
                    if not state:
                        state.update(step=0, **self.memories(w))
                    state["step"] += 1
                    self.turn(w, state, group["lr"], group["every"])

    def memories(self, w):
        return {}

    def turn(self, w, state, lr, every):
        w.sub_(lr * w.grad)


class Gathering(Counting):
    def memories(self, w):
        return {"sum": torch.zeros_like(w)}

    def turn(self, w, state, lr, every):
        state["sum"] += w.grad
        if state["step"] % every == 0:
            w.sub_(lr / every * state["sum"])
            state["sum"].zero_()


class LookingAhead(Counting):
    def memories(self, w):
        return {"slow": w.clone()}

    def turn(self, w, state, lr, every):
        w.sub_(lr * w.grad)
        if state["step"] % every == 0:
            state["slow"].lerp_(w, 0.1)
            w.copy_(state["slow"])


class LookingAheadLate(Counting):
    """Its second copy of the weights is made when it is first needed."""

    def turn(self, w, state, lr, every):
        w.sub_(lr * w.grad)
        if state["step"] % every == 0:
            slow = state.setdefault("slow", w.clone())
            slow.lerp_(w, 0.1)
            w.copy_(slow)


class Surging(Counting):
    def turn(self, w, state, lr, every):
        w.sub_(lr * (10 if state["step"] % every == 0 else 1) * w.grad)


class SurgingMomentum(Counting):
    def memories(self, w):
        return {"m": torch.zeros_like(w)}

    def turn(self, w, state, lr, every):
        state["m"].mul_(0.5 if state["step"] % every == 0 else 0.9).add_(w.grad)
        w.sub_(lr * state["m"])


class DecayingNow(Counting):
    def turn(self, w, state, lr, every):
        w.sub_(lr * w.grad)
        if state["step"] % every == 0:
            w.mul_(0.99)


class Toggling(Counting):
    is_even = True

    def turn(self, w, state, lr, every):
        self.is_even = self.is_even != (w.ndim == 2)
        w.sub_(lr * (1 + 9 * self.is_even) * w.grad)


class ClassCounting(Counting):
    count = 0

    def turn(self, w, state, lr, every):
        type(self).count += 1
        w.sub_(lr * (10 if type(self).count // 2 % every == 0 else 1) * w.grad)


KINDS = [Gathering, LookingAhead, LookingAheadLate, Surging, SurgingMomentum, DecayingNow, Toggling, ClassCounting]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("every", [2, 3, 13])
def test_a_method_with_a_rhythm_is_refused_in_every_phase_of_it(kind, every):
    for num_steps in range(every, 2 * every + 1):
        ws = parameters()
        frozen = freeze(warmed(kind(ws, every=every), ws, num_steps))
        assert frozen.status == "no_threshold", num_steps


@pytest.mark.parametrize("kind", [Gathering, LookingAhead, LookingAheadLate, Surging, DecayingNow])
@pytest.mark.parametrize("num_steps", [1, 7, 200, 201, 399])
def test_a_long_rhythm_is_found_by_the_number_that_tells_its_length(kind, num_steps):
    ws = parameters()
    frozen = freeze(warmed(kind(ws, every=200), ws, num_steps))
    assert frozen.status == "no_threshold"


class LookingAheadOnce(LookingAheadLate):
    """A length of which nothing tells, and only one beat of it within the walk."""

    def turn(self, w, state, lr, every):
        LookingAheadLate.turn(self, w, state, lr, 100)


def test_a_memory_that_is_made_later_is_refused():
    ws = parameters()
    assert "makes a new memory" in freeze(warmed(LookingAheadOnce(ws), ws, 1)).reason


def test_the_same_method_without_a_rhythm_is_answered():
    ws = parameters()
    frozen = freeze(warmed(Counting(ws), ws))
    assert (frozen.status, frozen.stability_threshold()) == ("linear", pytest.approx(200))


def test_a_real_ranger_that_looks_ahead_every_twenty_steps_is_refused():
    ranger = pytest.importorskip("pytorch_optimizer").Ranger
    for num_steps in (20, 39, 40, 64):
        ws = parameters()
        optimizer = warmed(ranger(ws, lr=1e-2, k=20, alpha=0.1), ws, num_steps)
        assert freeze(optimizer).status == "no_threshold"


class Warming(Counting):
    """A rate that rises and falls once, as bias corrections and schedules do."""

    def turn(self, w, state, lr, every):
        t = state["step"]
        w.sub_(lr * min(t / 20, 20 / t) * w.grad)


def test_a_schedule_inside_the_step_is_no_rhythm():
    ws = parameters()
    frozen = freeze(warmed(Warming(ws), ws, 10))
    assert frozen.status == "linear"
    torch.testing.assert_close(frozen.P, torch.full_like(frozen.P, 2.0))


class Recording(Counting):
    """Keeps records with itself and with its class, and uses none."""

    calls, records, by_name = 0, [], {"calls": 0}

    def turn(self, w, state, lr, every):
        type(self).calls += 1
        Recording.by_name["calls"] += 1
        Recording.records.append(float(w.grad.abs().mean()))
        self.__dict__.setdefault("log", []).append(float(w.grad.mean()))
        w.sub_(lr * w.grad)


def test_records_of_the_optimizer_and_of_its_class_are_left_alone_and_do_not_matter():
    ws = parameters()
    optimizer = warmed(Recording(ws), ws, 5)
    records, by_name = Recording.records, Recording.by_name
    before = Recording.calls, list(records), dict(by_name), list(optimizer.log)
    frozen = freeze(optimizer)
    assert (frozen.status, frozen.stability_threshold()) == ("linear", pytest.approx(200))
    assert before == (Recording.calls, list(records), dict(by_name), list(optimizer.log))
    assert Recording.records is records
    assert Recording.by_name is by_name


class Adamlike(Counting):
    def memories(self, w):
        return {"m": torch.zeros_like(w), "nu": torch.zeros_like(w)}

    def turn(self, w, state, lr, every):
        state["m"].lerp_(w.grad, 0.1)
        state["nu"].lerp_(w.grad.square(), 0.01)
        w.sub_(lr * state["m"] / (state["nu"].sqrt() + 1e-8))


def test_a_group_whose_learning_rate_is_zero_for_now_is_held_and_the_others_answered():
    ws = parameters()
    optimizer = Adamlike([{"params": ws[:1], "lr": 0.0}, {"params": ws[1:]}])
    frozen = freeze(warmed(optimizer, ws))
    assert frozen.status == "linear", frozen.reason
    nu = torch.cat([optimizer.state[w]["nu"].reshape(-1) for w in ws])
    torch.testing.assert_close(frozen.P, nu.sqrt() + 1e-8, rtol=1e-6, atol=0)
    assert (frozen.D[:12] == 0).all()
    assert (frozen.D[12:] > 0).all()
    assert optimizer.param_groups[0]["lr"] == 0


class Centered(Counting):
    """RMSprop whose second moment is a variance: linear near a mean of 0, and there alone."""

    def memories(self, w):
        return {"square": torch.zeros_like(w), "mean": torch.zeros_like(w)}

    def turn(self, w, state, lr, every):
        state["square"].lerp_(w.grad.square(), 1e-5)
        state["mean"].lerp_(w.grad, 1e-5)
        w.sub_(lr * w.grad / ((state["square"] - state["mean"] ** 2).sqrt() + 1e-8))


def test_a_memory_too_slow_to_show_in_a_step_is_asked_where_it_is():
    ws = parameters()
    optimizer = Centered(ws)
    for _ in range(2000):
        fill(ws, 10 + 0.1 * torch.randn(len(flat(ws)), dtype=torch.float64))
        optimizer.step()
    assert "not linear" in freeze(optimizer).reason


def test_a_refusal_in_the_first_step_is_not_for_ever():
    ws = parameters()
    optimizer = warmed(pytest.importorskip("pytorch_optimizer").RAdam(ws), ws, 1)
    assert freeze(optimizer).status == "no_threshold"
    warmed(optimizer, ws, 20)
    assert [freeze(optimizer).status for _ in range(2)] == ["no_threshold", "linear"]
