"""`tightrope doctor` and the examination beneath it: what is found, what it rests on, and every wrong build."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from tightrope.cli import main
from tightrope.curvature import Hessian, MicroBatches
from tightrope.doctor import blame, examine
from tightrope.doctor.footprint import saved_bytes
from tightrope.errors import ConfigError, ShapeError, UnsupportedOptimizerError
from tightrope.optim import SAM, freeze
from tightrope.stability import Probe, restricted, size_words

BUILD = """
import torch
from torch import nn

def parts(model=None):
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    batch = torch.randn(32, 8), torch.randint(3, (32,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return model, optimizer, lambda model, b: nn.functional.cross_entropy(model(b[0]), b[1]), batch

def build():
    print("building")
    return parts()

def as_dict():
    return dict(zip(("model", "optimizer", "loss_fn", "batch"), parts()))

def nan():
    model, optimizer, loss_fn, batch = parts()
    return model, optimizer, lambda model, b: loss_fn(model, b) * float("nan"), batch

def boom():
    model, optimizer, loss_fn, batch = parts()
    return model, optimizer, lambda model, b: {}["absent"], batch

def swapped():
    model, optimizer, loss_fn, batch = parts()
    return optimizer, model, loss_fn, batch

def lacking():
    return {"model": nn.Linear(1, 1)}

def raising():
    raise ValueError("no data\\nmore lines")

def leaving():
    raise SystemExit(3)

def asking(data):
    return parts()

def nothing():
    pass

number = 3
"""


def parts(optimizer=torch.optim.AdamW, model=None, **settings):
    """A small classifier with what trains it."""
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    batch = torch.randn(32, 8), torch.randint(3, (32,))
    return model, optimizer(model.parameters(), **{"lr": 1e-3, **settings}), cross_entropy, batch


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.fixture
def tightrope(tmp_path, monkeypatch, capsys):
    """Run a command where build.py lies; returns its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "plan.py").write_text(BUILD)
    (tmp_path / "broken.py").write_text("import torch\nx = = 1\n")
    (tmp_path / "needy.py").write_text("import surely_not_installed\n")

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    yield call
    sys.modules.pop("plan", None)


def test_an_ordinary_model_can_be_measured_and_every_number_is_there():
    found = examine(*parts())
    assert found.is_measurable
    assert found.words.startswith("Yes: it can be measured, by the kept graph; every ")
    assert (found.num_parameters, found.num_frozen, found.num_measured) == (195, 0, 195)
    assert (found.optimizer, found.optimizer_status, found.num_steps) == ("AdamW", "linear", 15)
    assert found.threshold == pytest.approx(37999.81, rel=1e-6)
    assert found.check.startswith("products agree with differences")
    assert found.measurement is not None
    assert found.measurement.has_ratio
    assert found.warm_products < found.cold_products
    assert found.step_seconds > 0
    assert found.warm_seconds > 0


def test_the_cadence_keeps_measuring_within_its_share_of_the_whole_time_and_not_far_below():
    found = examine(*parts(), budget=0.05)
    mean = (49 * found.warm_seconds + found.cold_seconds) / 50
    assert [share for share, _ in found.cadence] == [0.01, 0.03, 0.05, 0.10]
    for share, every in found.cadence:
        assert mean / (mean + every * found.step_seconds) <= share * (1 + 1e-6)
        assert every == 1 or mean / (mean + (every - 1) * found.step_seconds) > share * (1 - 1e-6)


def test_step_bytes_are_those_of_weights_gradients_moments_and_saved_activations():
    found = examine(*parts())
    p, n = 195, 32
    counters = 4 * 4  # AdamW counts the steps of each parameter
    saved = 4 * n * (8 + 16 + 3) + 8 * n + 4  # inputs, tanh's output, log-softmax, targets and one total weight
    assert found.step_bytes == 4 * p * (1 + 1 + 2) + counters + saved


def test_saved_bytes_see_what_a_graph_holds_while_it_holds_it():
    x = torch.randn(1000, requires_grad=True)
    with saved_bytes([x]) as saved:
        for _ in range(3):
            (x.exp().sum()).backward()
    assert saved.peak == 4000
    with saved_bytes([x]) as saved:
        kept = [x.exp().sum() for _ in range(3)]
    assert saved.peak == 12000
    assert len(kept) == 3


def test_it_says_which_parameters_are_frozen_and_that_half_precision_is_raised():
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).bfloat16()
    model[0].requires_grad_(False)
    model, optimizer, loss_fn, (x, y) = parts(model=model)
    found = examine(model, optimizer, loss_fn, (x.bfloat16(), y))
    assert found.is_measurable
    assert (found.num_frozen, found.num_measured, found.dtypes) == (144, 51, ("bfloat16",))
    assert "in float32" in found.route


def test_attention_is_said_to_run_in_its_plain_form():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 3)

        def forward(self, x):
            h = self.layer(nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]))
            return h[:, 0]

    assert examine(*parts(model=Attends())).manner == ("attention in its plain (math) form",)
    assert examine(*parts()).manner == ()


class OnceDifferentiable(torch.autograd.Function):
    """A tanh whose second derivative autograd takes for zero."""

    @staticmethod
    def forward(ctx, x):
        y = x.tanh()
        ctx.save_for_backward(y.detach())
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        with torch.no_grad():
            return g * (1 - y**2)


class Opaque(nn.Module):
    def forward(self, x):
        return OnceDifferentiable.apply(x)


def test_a_model_without_second_derivative_is_measured_by_differences_and_rightly():
    found = {}
    for kind in (nn.Tanh, Opaque):
        torch.manual_seed(0)
        found[kind] = examine(*parts(model=nn.Sequential(nn.Linear(8, 16), kind(), nn.Linear(16, 3))))
    assert found[Opaque].words.startswith("Yes: it can be measured, by central differences")
    assert found[Opaque].measurement.ratio == pytest.approx(found[nn.Tanh].measurement.ratio, rel=1e-3)


def test_groups_with_thresholds_of_their_own_are_named():
    model, _, loss_fn, batch = parts()
    groups = [{"params": model[0].parameters(), "lr": 1e-2}, {"params": model[2].parameters()}]
    found = examine(model, torch.optim.Adam(groups, lr=1e-3), loss_fn, batch)
    assert found.threshold is None
    assert [(lr, round(threshold), size) for lr, threshold, size in found.groups] == [
        (0.01, 3800, 144),
        (0.001, 38000, 51),
    ]


def test_micro_batches_are_stepped_and_measured_as_one_loss():
    model, optimizer, loss_fn, (x, y) = parts()
    halves = MicroBatches([(x[:16], y[:16]), (x[16:], y[16:])])
    whole = examine(*parts())
    found = examine(model, optimizer, loss_fn, halves)
    assert found.measurement is not None
    assert whole.measurement is not None
    assert found.measurement.ratio == pytest.approx(whole.measurement.ratio, rel=1e-3)


def test_a_method_with_no_threshold_is_refused_with_its_reason_and_the_route_all_the_same():
    found = examine(*parts(torch.optim.LBFGS))
    assert not found.is_measurable
    assert "LBFGS" in found.words
    assert "The raw sharpness alone can be measured" in found.words
    assert found.route == "kept graph"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model, batch: (model, lambda m, b: cross_entropy(m, b) * torch.nan, batch), "the loss is nan"),
        (lambda model, batch: (model, cross_entropy, (batch[0][:0], batch[1][:0])), "Is the batch empty"),
        (lambda model, batch: (model, lambda m, b: m(b[0]), batch), "must return a scalar; got shape (32, 3)"),
        (lambda model, batch: (model, lambda m, b: [][1], batch), "IndexError: list index out of range"),
        (lambda model, batch: (nn.Linear(8, 3), cross_entropy, batch), "depends on none of them"),
        (lambda model, batch: (nn.Linear(8, 3, device="meta"), cross_entropy, batch), "on the meta device"),
        (lambda model, batch: (nn.Tanh(), cross_entropy, batch), "must have parameters"),
        (lambda model, batch: (nn.LazyLinear(3), cross_entropy, batch), "have no shape yet"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(change, words):
    model, optimizer, loss_fn, batch = parts()
    model, loss_fn, batch = change(model, batch)
    found = examine(model, optimizer, loss_fn, batch)
    assert not found.is_measurable
    assert found.words.startswith("No: ")
    assert words in found.words
    assert "\n" not in found.words


def test_an_interrupt_passes_through():
    def interrupted(model, batch):
        raise KeyboardInterrupt

    model, optimizer, _, batch = parts()
    with pytest.raises(KeyboardInterrupt):
        examine(model, optimizer, interrupted, batch)


def test_a_model_too_large_for_its_memory_is_measured_by_its_last_layer_as_a_lower_bound():
    found = examine(*parts(), max_bytes=20_000)
    assert not found.is_measurable
    assert "does not fit into the 20 kB" in found.words
    assert "is a lower bound of the whole's" in found.words
    assert found.part is not None
    assert (found.part.name, found.part.num_parameters) == ("2", 51)
    whole = examine(*parts())
    assert whole.measurement is not None
    assert 0 < found.part.ratio < whole.measurement.ratio


def test_a_basis_with_little_room_is_cut_and_said_so():
    found = examine(*parts(), max_bytes=2 * (24 + 2 * 14) * 195 * 4)
    assert found.max_basis == 14
    assert "room for 14 vectors only" in found.words
    assert f"Within max_bytes={found.max_bytes:.3g} " in found.words
    assert "more memory tightens it" in found.words
    assert found.vector_bytes == (24 + 2 * 14) * 195 * 4
    assert found.vector_bytes + found.graph_bytes <= found.max_bytes


def test_a_run_that_diverges_within_the_steps_taken_is_said_to():
    found = examine(*parts(torch.optim.SGD, lr=1e8))
    assert found.is_measurable  # what it costs is known
    assert found.last_loss > 100 * found.loss
    assert (
        f" But training diverges: 15 steps took the loss from {found.loss:.3g} to {found.last_loss:.3g}." in found.words
    )
    assert "diverges" not in examine(*parts(torch.optim.SGD, lr=1e-1)).words


@pytest.mark.parametrize(
    ("lr", "words"),
    [
        (1e10, "No: training diverges: after 5 steps the weights are not finite. Lower the learning rate."),
        (1e5, "No: after 5 steps there is no ratio: the loss"),
        (300, "No: after 10 steps there is no ratio: the loss"),
    ],
)
def test_a_run_that_leaves_all_numbers_is_refused_with_what_is_known(lr, words):
    model = nn.Linear(4, 1, bias=False)  # every step multiplies its weights by 1 - lr
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    found = examine(model, optimizer, lambda m, x: m(x).square().sum() / 2, torch.eye(4))
    assert not found.is_measurable
    assert found.words.startswith(words)
    assert found.step_seconds > 0
    assert (found.cold_seconds > 0) is (lr == 300)


def test_one_parameter_is_one():
    from tightrope.cli.examining import _lines

    model = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = examine(model, optimizer, lambda m, x: m(x).square().mean(), torch.ones(2, 1))
    assert dict(_lines(found))["model"] == "1 parameter; float32 on cpu"


@pytest.mark.parametrize("budget", [0, -1, 1.5, float("nan")])
def test_a_budget_is_a_share(budget):
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        examine(*parts(), budget=budget)


def test_the_ratio_of_a_block_is_that_of_the_principal_submatrix():
    model, optimizer, loss_fn, batch = parts(weight_decay=0.1)
    loss_fn(model, batch).backward()
    optimizer.step()
    frozen, block = freeze(optimizer), list(model[2].parameters())
    H = Hessian(model, loss_fn, batch)
    whole = frozen.D.sqrt()[:, None] * (H @ torch.eye(195)) * frozen.D.sqrt()
    expected = float(torch.linalg.eigvalsh(whole[144:, 144:].double())[-1])
    part = Probe(model, loss_fn, params=block, rtol=1e-4).measure(restricted(frozen, block), batch)
    assert part.ratio == pytest.approx(expected, rel=1e-4)
    assert part.ratio < float(torch.linalg.eigvalsh(whole.double())[-1])


def test_a_block_is_of_the_optimizers_own_and_of_a_method_that_does_not_couple_parameters():
    model, optimizer, _, _ = parts(torch.optim.SGD)
    with pytest.raises(ShapeError, match="must be one the optimizer moves"):
        restricted(freeze(optimizer), [nn.Parameter(torch.zeros(1))])
    sam = SAM(optimizer, rho=0.1)

    def closure():
        loss = model(torch.ones(1, 8)).square().mean()
        loss.backward()
        return loss

    sam.step(closure)
    with pytest.raises(UnsupportedOptimizerError, match="SAM"):
        restricted(freeze(sam), list(model[2].parameters()))


def test_an_error_is_blamed_on_the_line_of_the_user():
    with pytest.raises(RuntimeError) as raised:
        nn.Linear(2, 2)(torch.zeros(3))
    assert blame(raised.value).startswith("RuntimeError: ")
    assert f"({__file__}:" in blame(raised.value)


def test_sizes_are_said_as_people_say_them():
    assert [size_words(n) for n in (0, 999, 1000, 2.5e9)] == ["0 B", "999 B", "1 kB", "2.5 GB"]


@pytest.mark.parametrize("target", ["plan:build", "plan.py:build", "plan:as_dict"])
def test_doctor_takes_a_module_or_a_file_and_says_yes_first(tightrope, target):
    code, out, err = tightrope("doctor", target)
    assert code == 0
    assert out.startswith("Yes: it can be measured, by the kept graph")
    assert "AdamW: stable up to a preconditioned sharpness of 37999.8 = 37.9998 / lr" in out
    assert "15 real training steps were taken here" in out
    assert "1 %: every " in out
    assert err == ("" if target.endswith("as_dict") else "building\n")


def test_doctor_prints_json_that_holds_the_examination(tightrope):
    code, out, _ = tightrope("doctor", "plan:build", "--json", "--budget", "7%")
    found = json.loads(out)
    assert code == 0
    assert found["num_parameters"] == 195
    assert [share for share, _ in found["cadence"]] == [0.01, 0.03, 0.07, 0.1]
    assert found["measurement"]["status"] == "converged"


@pytest.mark.parametrize(("name", "words"), [("nan", "the loss is nan"), ("boom", "KeyError: 'absent' (")])
def test_doctor_exits_with_five_and_the_reason_where_nothing_can_be_measured(tightrope, name, words):
    code, out, _ = tightrope("doctor", f"plan:{name}")
    assert code == 5
    assert words in out.splitlines()[0]
    code, out, _ = tightrope("doctor", f"plan:{name}", "--json")
    assert code == 5
    assert json.loads(out)["is_measurable"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan"], "name a function as pkg.mod:build"),
        (["plan:"], "name a function as pkg.mod:build"),
        ([":build"], "name a function as pkg.mod:build"),
        (["plam:build"], "Python finds no 'plam'"),
        (["plan.deeper:build"], "Python finds no 'plan.deeper'"),
        (["needy:build"], "No module named 'surely_not_installed' ("),
        (["broken:build"], "SyntaxError: invalid syntax ("),
        (["nowhere.py:build"], "must be a file; there is none"),
        (["pl-an:build"], "must be a module's name"),
        (["plan:biuld"], "Did you mean 'build'?"),
        (["plan:number"], "must be a function; got int"),
        (["plan:asking"], "must take no arguments; it takes (data)"),
        (["plan:raising"], "raised ValueError: no data ("),
        (["plan:leaving"], "raised SystemExit: 3 ("),
        (["plan:nothing"], "got NoneType"),
        (["plan:lacking"], "got dict without optimizer, loss_fn, batch"),
        (["plan:swapped"], "its model is not an nn.Module but AdamW"),
        (["plan:build", "--budget", "0"], "must be above 0 and at most 100%; got '0'"),
        (["plan:build", "--budget", "300%"], "must be above 0 and at most 100%; got '300%'"),
        (["plan:build", "--budget", "some"], "Write 3% or 0.03"),
        (["plan:build", "--max-bytes", "0"], "must be a number of bytes above 0"),
        (["plan:build", "--max-bytes", "2 apples"], "Write 2GB or 512MiB"),
    ],
)
def test_every_wrong_build_is_one_line_and_exit_two(tightrope, arguments, message):
    code, out, err = tightrope("doctor", *arguments)
    err = err.removeprefix("building\n")
    assert (code, out) == (2, "")
    assert err.startswith("tightrope: ")
    assert err.count("\n") == 1
    assert message in err


def test_a_budget_of_bytes_is_read_as_people_write_it():
    from tightrope.cli.examining import parse_bytes

    assert [parse_bytes(text) for text in ("1e9", "2GB", "512MiB", "1.5 k")] == [1e9, 2e9, 512 * 2**20, 1500]
