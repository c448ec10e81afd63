"""`tightrope measure`: checkpoints of every kind, put into what was built, measured, drawn, or refused in one line."""

from __future__ import annotations

import json
import pickle
import sys

import pytest
import safetensors.torch
import torch
from torch import nn

from tightrope.cli import main
from tightrope.curvature import Dense, Hessian, spectral_density
from tightrope.doctor import snapshot, spectrum_curve
from tightrope.optim import freeze
from tightrope.stability import measure
from tightrope.views import spectrum_panel

BUILD = """
import torch
from torch import nn

def build(lr=1e-3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    batch = torch.randn(32, 8), torch.randint(3, (32,))
    return model, torch.optim.Adam(model.parameters(), lr=lr), loss_fn, batch

def loss_fn(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])

def meta():
    model, optimizer, loss_fn, batch = build()
    return model.to_empty(device="meta") and nn.Linear(8, 3, device="meta"), optimizer, loss_fn, batch

def boom():
    model, optimizer, loss_fn, batch = build()
    return model, optimizer, lambda model, batch: {}["absent"], batch
"""


@pytest.fixture
def tightrope(tmp_path, monkeypatch, capsys):
    """Run a command beside plan.py; returns its exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "plan.py").write_text(BUILD)

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    yield call
    sys.modules.pop("plan", None)


def trained(num_steps=20):
    """The parts of BUILD after some steps."""
    names = {}
    exec(BUILD, names)
    model, optimizer, loss_fn, batch = names["build"]()
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()
    return model, optimizer, loss_fn, batch


def prefixed(prefix, state):
    return {prefix + name: x for name, x in state.items()}


@pytest.mark.parametrize(
    "content",
    [
        lambda w, o: {"model": w, "optimizer": o},
        lambda w, o: {"model_state_dict": w, "optimizer_state_dict": o, "epoch": 3},
        lambda w, o: {"state_dict": prefixed("model.", w), "optimizer_states": [o], "pytorch-lightning_version": "2"},
        lambda w, o: {"model": prefixed("module._orig_mod.", w), "optimizer": o},
        lambda w, o: {"model": prefixed("_orig_mod.module.", w), "optimizer": o},
        lambda w, o: {"model": {name.replace("0.", "0._orig_mod."): x for name, x in w.items()}, "optimizer": o},
    ],
)
def test_a_checkpoint_measures_as_the_run_it_was_taken_from(tightrope, content):
    model, optimizer, loss_fn, batch = trained()
    expected = measure(model, optimizer, loss_fn, batch)
    torch.save(content(model.state_dict(), optimizer.state_dict()), "last.pt")
    code, out, err = tightrope("measure", "plan:build", "last.pt", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert found["ratio"] == pytest.approx(expected.ratio, rel=1e-6)
    assert found["sharpness"] == pytest.approx(expected.sharpness, rel=1e-6)
    assert found["status"] == "converged"


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_weights_alone_give_the_sharpness_alone_and_say_so(tightrope, name):
    model, optimizer, loss_fn, batch = trained()
    expected = measure(model, optimizer, loss_fn, batch)
    if name.endswith("pth"):
        torch.save(model.state_dict(), name)
    else:
        safetensors.torch.save_file(model.state_dict(), name)
    code, out, _ = tightrope("measure", "plan:build", name)
    assert code == 0
    assert "ratio " not in out.splitlines()[0]
    words = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert float(words["sharpness"].split()[0]) == pytest.approx(expected.sharpness, rel=2e-2)
    assert "The file holds no optimizer state" in out
    assert "the raw sharpness alone was measured" in out


def test_layers_and_the_spectrum_come_on_demand(tightrope, tmp_path):
    model, optimizer, _, _ = trained()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
    code, out, _ = tightrope("measure", "plan:build", "last.pt", "--layers", "--spectrum", "s.html", "-k", 2)
    assert code == 0
    assert "ratios " in out
    assert "Layers of the top direction, in coordinates in which the optimizer steps alike:" in out
    assert "0.weight" in out
    page = (tmp_path / "s.html").read_text()
    assert "Spectrum of last" in page
    assert "https://" not in page.split("<script>")[0]
    code, out, _ = tightrope("measure", "plan:build", "last.pt", "--layers", "--json")
    assert sum(layer["share"] for layer in json.loads(out)["layers"]) == pytest.approx(1)


def test_a_tied_weight_stored_once_is_enough():
    from tightrope.cli.weights import Checkpoint, put_into

    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    put_into(Checkpoint("one.safetensors", {"0.weight": torch.eye(4)}, None), model, None)
    assert torch.equal(model[1].weight, torch.eye(4))


class Custom:
    """Something that is no tensor."""


def write_bad(tmp_path):
    model, _, _, _ = trained(1)
    state = model.state_dict()
    torch.save({"model": state, "extra": Custom()}, tmp_path / "custom.pt")
    torch.save(state, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:700])
    safetensors.torch.save_file(state, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:100])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "pickled.pt").write_bytes(pickle.dumps(state))
    torch.save(nn.Linear(8, 16).state_dict(), tmp_path / "other.pt")
    torch.save({**state, "0.weight": torch.zeros(16, 9)}, tmp_path / "shape.pt")
    torch.save({**state, "more": torch.zeros(1)}, tmp_path / "more.pt")
    torch.save({"model": state, "optimizer": torch.optim.SGD([model[0].weight]).state_dict()}, tmp_path / "fewer.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.pt"], "must be a file; there is none"),
        (["."], "it is a directory"),
        (["plan.py"], "must end in .safetensors, .pt"),
        (["custom.pt"], "code is never unpickled"),
        (["cut.pt"], "must be a whole file of torch.save"),
        (["cut.safetensors"], "must be a whole safetensors file"),
        (["empty.pt"], "must be a whole file of torch.save; EOFError"),
        (["pickled.pt"], "must hold tensors and plain containers only"),
        (["other.pt"], "it lacks '0.weight' (6 such differences)"),
        (["shape.pt"], "it has '0.weight' as (16, 9) where the model has (16, 8)."),
        (["more.pt"], "it has 'more', which the model has not."),
        (["fewer.pt"], "the optimizer's state in fewer.pt must be that of the optimizer built"),
        (["tensor.pt"], "must hold a dict; it holds Tensor"),
        (["none.pt"], "must hold weights"),
        (["whole.pt", "--k", "0"], "--k must be a whole number, at least 1; got 0"),
        (["whole.pt", "--rtol", "0"], "--rtol must be above 0 and below 1; got 0"),
        (["whole.pt", "--spectrum", "."], "--spectrum must be a file"),
    ],
)
def test_every_wrong_checkpoint_is_one_line_and_exit_two(tightrope, tmp_path, arguments, message):
    write_bad(tmp_path)
    code, out, err = tightrope("measure", "plan:build", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("tightrope: ")
    assert err.count("\n") == 1
    assert message in err


def test_what_cannot_be_measured_exits_with_five_and_its_reason(tightrope, tmp_path):
    model, optimizer, _, _ = trained()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "last.pt")
    code, out, _ = tightrope("measure", "plan:boom", "last.pt")
    assert code == 5
    assert out.startswith("It cannot be measured: KeyError: 'absent' (")
    with torch.no_grad():
        model[0].weight.fill_(torch.nan)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "nan.pt")
    code, out, _ = tightrope("measure", "plan:build", "nan.pt")
    assert code == 5
    assert "not_finite" in out


def test_the_spectrum_is_that_of_the_operator_whose_edge_is_one():
    model, optimizer, loss_fn, batch = trained()
    found = snapshot(model, optimizer, loss_fn, batch, num_spectrum_vectors=2)
    half = freeze(optimizer).half_scaling()
    dense = torch.linalg.eigvalsh((half[:, None] * (Hessian(model, loss_fn, batch) @ torch.eye(195)) * half).double())
    assert float(found.density.nodes.max()) == pytest.approx(float(dense[-1]), rel=1e-3)
    assert found.measurement.ratio == pytest.approx(float(dense[-1]), rel=1e-3)
    assert float(found.density.nodes.min()) == pytest.approx(float(dense[0]), rel=1e-2)
    assert found.layers[0].share == max(layer.share for layer in found.layers)


def curve_of(eigenvalues, num_vectors=8):
    values = torch.tensor(eigenvalues, dtype=torch.float64)
    return spectrum_curve(spectral_density(Dense(torch.diag(values)), num_vectors=num_vectors))


def test_the_curve_counts_eigenvalues_where_they_are():
    curve = curve_of([1.0] + [0.1] * 40 + [0.0] * 200 + [-0.01] * 9)
    for place, number in ((1.0, 1), (0.1, 40), (0.0, 200), (-0.01, 9)):
        nearest = int((curve.eigenvalue - place).abs().argmin())
        assert abs(float(curve.count[nearest]) - number) < 5 * float(curve.error[nearest]) + 0.05 * number
    assert abs(curve.at_zero.value - 200) < 5 * curve.at_zero.standard_error
    assert curve.extremes == pytest.approx((-0.01, 1.0))
    assert float(curve.count[int((curve.eigenvalue - 0.5).abs().argmin())]) < 0.01


def panel_of(curve, **more):
    arrays = {name: getattr(curve, name).numpy() for name in ("eigenvalue", "count", "error")}
    return spectrum_panel(
        **arrays,
        zero=curve.zero,
        at_zero=(curve.at_zero.value, curve.at_zero.standard_error),
        size=curve.size,
        extremes=curve.extremes,
        **more,
    )


def test_the_panel_shows_both_signs_on_a_log_density_axis_with_its_band_and_the_edge_where_asked():
    curve = curve_of([0.9] + [0.1] * 40 + [0.0] * 200 + [-0.1] * 9)
    panel = panel_of(curve, edge=1.0)
    axes = panel.figure["layout"]
    assert axes["yaxis"]["type"] == "log"
    assert axes["xaxis"]["ticktext"] == ["\u22120.1", "\u22120.01", "0", "0.01", "0.1", "1"]
    assert [trace["name"] for trace in panel.figure["data"]] == ["± standard error", "eigenvalues"]
    edge = next(shape for shape in axes["shapes"] if shape["name"] == "edge of stability")
    assert edge["x0"] == pytest.approx(axes["xaxis"]["tickvals"][-1])
    assert axes["xaxis"]["range"][1] > edge["x0"]
    assert any("of 250 eigenvalues" in note for note in panel.notes)
    assert not any(shape["name"] == "edge of stability" for shape in panel_of(curve).figure["layout"]["shapes"])


def test_one_direction_has_no_standard_error_and_its_panel_is_still_json():
    panel = panel_of(curve_of([1.0, 0.5, 0.0], num_vectors=1))
    json.dumps(panel.figure, allow_nan=False)
    assert not any("±" in note and "nan" in note for note in panel.notes)
    json.dumps(panel_of(curve_of([0.0, 0.0])).figure, allow_nan=False)
