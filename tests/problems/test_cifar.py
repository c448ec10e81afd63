"""CIFAR as problems: the paper's two networks on standardised images."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tightrope.errors import ConfigError
from tightrope.optim import RECIPES
from tightrope.problems import ARCHIVES, Cifar10, Cifar100, cross_entropy, half_squared_error
from tightrope.problems.archives import load
from tightrope.problems.models import convolutional
from tightrope.training import MeasureConfig, RunConfig, from_mapping, run

from .conftest import members

SUBSET = "cifar10-5k.npz"
FOLDERS = (os.environ.get("TIGHTROPE_DATA", ""), Path(__file__).parents[3] / "shared" / "data")
FOUND = [path for path in (Path(folder) / SUBSET for folder in FOLDERS) if path.is_file()]
real_images = pytest.mark.skipif(not FOUND, reason=f"{SUBSET} is neither in ../shared/data nor in TIGHTROPE_DATA")


def test_the_fully_connected_network_is_the_papers(keep):
    keep("cifar10", members("cifar10"))
    problem = Cifar10().build(0, torch.float64)
    shapes = [tuple(w.shape) for w in problem.parameters if w.ndim == 2]
    assert shapes == [(200, 3072), *[(200, 200)] * 4, (10, 200)]
    assert sum(isinstance(layer, nn.Tanh) for layer in problem.model) == 5


def test_the_convolutional_network_is_the_papers(keep):
    keep("cifar10", members("cifar10"))
    problem = Cifar10(model="cnn").build(0, torch.float64)
    kinds = [type(layer).__name__ for layer in problem.model]
    assert kinds == [*["Conv2d", "ReLU", "MaxPool2d"] * 3, "Flatten", *["Linear", "ReLU"] * 2, "Linear"]
    convolutions = [layer for layer in problem.model if isinstance(layer, nn.Conv2d)]
    assert [tuple(layer.weight.shape) for layer in convolutions] == [(64, 3, 5, 5), (96, 64, 3, 3), (128, 96, 3, 3)]
    assert [layer.padding for layer in convolutions] == [(0, 0), (0, 0), (1, 1)]
    assert [layer.out_features for layer in problem.model if isinstance(layer, nn.Linear)] == [512, 256, 10]
    assert problem.w.numel() == 895_210
    for weight, bias in zip(problem.parameters[::2], problem.parameters[1::2], strict=True):
        assert float(weight.detach().std()) == pytest.approx(weight[0].numel() ** -0.5, rel=0.05)
        assert (bias == 0).all()


def padded_max_pool(x):
    """Windows of 3x3, stride 2, "same" padding as in TensorFlow and JAX: on even sizes, one row and column after."""
    rows = nn.functional.pad(x, (0, 1, 0, 1), value=-math.inf)
    starts = range(0, x.shape[-1], 2)
    pooled = [torch.stack([rows[..., i : i + 3, j : j + 3].amax((-1, -2)) for j in starts], -1) for i in starts]
    return torch.stack(pooled, -2)


def test_pooling_covers_the_border_as_same_padding_does():
    model = convolutional((8,), 4, "linear", torch.Generator().manual_seed(0)).double()
    x = expected = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sizes = []
    for layer in model[:9]:
        x = layer(x)
        is_pooling = isinstance(layer, nn.MaxPool2d)
        expected = padded_max_pool(expected) if is_pooling else layer(expected)
        sizes += [x.shape[-1]] * is_pooling
    assert sizes == [14, 6, 3]
    assert torch.equal(x, expected)


def test_targets_and_classes_follow_the_loss(keep):
    keep("cifar100", members("cifar100"))
    y = torch.from_numpy(load(ARCHIVES["cifar100"]).train_y).long()
    squared = Cifar100(hidden=(4,)).build(0, torch.float32)
    entropy = Cifar100(hidden=(4,), loss="cross_entropy").build(0, torch.float32)
    assert squared.batch[1].dtype == torch.float32
    assert squared.batch[1].shape == (4, 100)
    assert torch.equal(squared.batch[1].argmax(1), y)
    assert torch.equal(entropy.batch[1], y)
    for problem, criterion in ((squared, half_squared_error), (entropy, cross_entropy)):
        inputs, targets = problem.batch
        assert torch.equal(problem.loss_fn(problem.model, problem.batch), criterion(problem.model(inputs), targets))


def test_the_first_so_many_images_are_standardised_by_the_whole_training_set(keep):
    keep("cifar10", members("cifar10"))
    whole = Cifar10(hidden=(4,)).build(0, torch.float64)
    part = Cifar10(hidden=(4,), num_examples=3, num_test_examples=2).build(0, torch.float64)
    assert whole.num_examples == 20
    assert whole.test_batch is None
    assert torch.equal(part.batch[0], whole.batch[0][:3])
    assert torch.allclose(whole.batch[0].std((0, 2, 3), correction=0), torch.ones(3).double())
    images = load(ARCHIVES["cifar10"])
    held_out, targets = part.test_batch
    assert torch.equal(held_out, images.standardised(images.test_x[:2], torch.float64))
    assert targets.argmax(1).tolist() == images.test_y[:2].tolist()


@pytest.mark.parametrize("model", ["fc", "cnn"])
def test_a_problem_is_a_function_of_its_seed_in_the_dtype_asked_for(model, keep):
    keep("cifar10", members("cifar10"))
    config = Cifar10(model=model, hidden=(6,))
    before = torch.get_rng_state()
    for dtype in (torch.float32, torch.float64):
        first, again, other = (config.build(seed, dtype) for seed in (3, 3, 4))
        assert {tensor.dtype for tensor in (first.w, *first.batch)} == {dtype}
        assert torch.equal(first.w, again.w)
        assert not torch.equal(first.w, other.w)
    assert torch.equal(before, torch.get_rng_state())


def test_hidden_and_activation_may_be_chosen(keep):
    keep("cifar10", members("cifar10"))
    for model, widths in (("fc", [7, 10]), ("cnn", [7, 10])):
        network = Cifar10(model=model, hidden=(7,), activation="gelu").build(0, torch.float32).model
        assert [layer.out_features for layer in network if isinstance(layer, nn.Linear)] == widths
        assert any(isinstance(layer, nn.GELU) for layer in network)
        assert not any(isinstance(layer, nn.Tanh | nn.ReLU) for layer in network)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "cn"}, "Did you mean 'cnn'?"),
        ({"hidden": (5, 0)}, "widths must be at least 1"),
        ({"activation": "rleu"}, "Did you mean 'relu'?"),
        ({"loss": "mae"}, "Did you mean 'mse'?"),
        ({"num_examples": 0}, "num_examples: must be between 1 and the 20 there are; got 0"),
        ({"num_examples": 21}, "num_examples: must be between 1 and the 20 there are; got 21"),
        ({"num_test_examples": 5}, "num_test_examples: must be between 0 and the 4 there are; got 5"),
        ({"num_test_examples": -1}, "num_test_examples: must be between 0 and the 4 there are; got -1"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, words, keep):
    keep("cifar10", members("cifar10"))
    with pytest.raises(ConfigError) as error:
        Cifar10(**settings).build(0, torch.float32)
    assert words in str(error.value)


def test_a_configuration_survives_toml(keep):
    import tomllib

    for problem in (Cifar10(), Cifar100(model="cnn", hidden=(), path="a b.npz", num_examples=3, num_test_examples=1)):
        config = RunConfig(problem=problem, method=RECIPES["adam"](lr=1e-3))
        assert from_mapping(tomllib.loads(config.to_toml())) == config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([], "tightrope fetch cifar10"),
        (["problem.path=no.npz"], "no file 'no.npz'"),
        (["problem.path=bad.npz"], "it lacks train_y, test_x, test_y"),
        (["problem.path=text.npz"], "must be an .npz of plain arrays"),
        (["problem.path=text.txt"], "must be the published cifar-10-binary.tar.gz"),
        (["problem.model=cnnn"], "Did you mean 'cnn'?"),
    ],
)
def test_a_run_without_its_data_is_one_line_and_writes_nothing(settings, words, tightrope, folder):
    np.savez("bad.npz", train_x=np.zeros(3))
    Path("text.npz").write_text("text")
    Path("text.txt").write_text("text")
    before = sorted(Path().iterdir())
    sets = [part for setting in ["problem=cifar10", *settings] for part in ("--set", setting)]
    code, out, err = tightrope("run", "digits-adam", *sets)
    assert (code, out) == (2, "")
    assert err.startswith("tightrope: ")
    assert err.count("\n") == 1
    assert words in err
    assert sorted(Path().iterdir()) == before
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@real_images
def test_the_subset_knows_the_moments_of_all_of_cifar10():
    images = load(ARCHIVES["cifar10"], str(FOUND[0]))
    # Known of all 50,000 training images; the 5,000 alone differ in the third decimal.
    assert np.allclose(images.mean / 255, [0.4914, 0.4822, 0.4465], atol=5e-5)
    assert np.allclose(images.std / 255, [0.2470, 0.2435, 0.2616], atol=5e-5)


@pytest.mark.slow
@real_images
@pytest.mark.parametrize(("model", "num_examples"), [("fc", 1000), ("cnn", 100)])
def test_the_papers_networks_train_on_real_images(model, num_examples, tmp_path):
    config = RunConfig(
        problem=Cifar10(model=model, num_examples=num_examples, path=str(FOUND[0])),
        method=RECIPES["adam"](lr=1e-4, eps=1e-7),
        num_steps=12,
        measure=MeasureConfig(every=6),
    )
    record = run(config, out=tmp_path / "run")
    loss = record.steps["loss"]
    assert loss[-1] < 0.9 * loss[0]
    assert np.isfinite(record.measurements["ratio"]).all()
    assert (record.measurements["ratio"] > 0).all()
