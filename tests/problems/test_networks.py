"""The networks of the paper's figures: their layers, their sizes, what they compute, what they refuse."""

from __future__ import annotations

import tomllib

import pytest
import torch
from torch import nn

from tests.reference import residual
from tightrope.errors import ConfigError
from tightrope.optim import RECIPES
from tightrope.problems import Cifar10, Digits, bottleneck_residual, wide_residual
from tightrope.problems.data import digits
from tightrope.problems.residual import Bottleneck, WideBlock
from tightrope.training import RunConfig, from_mapping

from .conftest import members

MODELS = ("fc", "cnn", "wrn", "wrn_bn")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=generator(1))


def test_the_convolutional_network_on_digits_has_two_convolutions_and_two_linear_layers():
    problem = Digits(model="cnn", num_examples=10).build(0, torch.float64)
    kinds = [type(layer).__name__ for layer in problem.model]
    assert kinds == [*["Conv2d", "ReLU", "MaxPool2d"] * 2, "Flatten", "Linear", "ReLU", "Linear"]
    assert [tuple(w.shape) for w in problem.parameters[::2]] == [(16, 1, 3, 3), (32, 16, 3, 3), (64, 128), (10, 64)]
    assert problem.batch[0].shape == (10, 1, 8, 8)


def test_a_wide_residual_network_of_the_papers_size_is_wrn_28_10():
    model = wide_residual(3, (160, 320, 640), 4, 10, True, generator())
    assert sum(w.numel() for w in model.parameters()) == 36_479_194


def test_bottleneck_residual_as_it_stands_is_resnet_50():
    model = bottleneck_residual(1000, generator())
    assert sum(w.numel() for w in model.parameters()) == 25_557_032
    assert sum(isinstance(block, Bottleneck) for block in model) == 16


@pytest.mark.parametrize("is_normalised", [False, True])
@pytest.mark.parametrize(("channels", "blocks"), [((8, 16), 1), ((16, 24, 32), 2)])
def test_wide_residual_computes_what_the_plain_reference_does(channels, blocks, is_normalised):
    model = wide_residual(3, channels, blocks, 5, is_normalised, generator()).double()
    with torch.no_grad():
        for w in model.parameters():
            w += 0.1 * torch.randn(w.shape, dtype=w.dtype, generator=generator(2))
    x = images(4, 3, 8, 8)
    expected = residual.wide_residual(model, channels, blocks, x)
    assert torch.allclose(model(x), expected, rtol=1e-12, atol=1e-12)


def test_bottleneck_residual_computes_what_the_plain_reference_does():
    model = bottleneck_residual(5, generator(), (1, 2), 4).double()
    x = images(4, 3, 32, 32)
    assert torch.allclose(model(x), residual.bottleneck_residual(model, (1, 2), x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_weights_are_drawn_with_variance_one_over_fan_in_and_biases_are_zero(model):
    drawn = {"channels": (64, 96)} if "wrn" in model else {}
    problem = Digits(model=model, num_examples=10, **drawn).build(0, torch.float64)
    for name, layer in problem.model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            fan_in = layer.weight[0].numel()
            spread = 4 / (2 * layer.weight.numel()) ** 0.5  # four standard errors
            assert float(layer.weight.detach().std()) == pytest.approx(fan_in**-0.5, rel=spread), name
            assert layer.bias is None or bool((layer.bias == 0).all())
        elif isinstance(layer, nn.BatchNorm2d):
            assert bool((layer.weight == 1).all() and (layer.bias == 0).all())


def test_without_normalisation_every_block_has_a_multiplier_that_starts_at_one():
    plain = Digits(model="wrn", blocks=2, num_examples=10).build(0, torch.float64).model
    normalised = Digits(model="wrn_bn", blocks=2, num_examples=10).build(0, torch.float64).model
    blocks = [block for block in plain if isinstance(block, WideBlock)]
    assert len(blocks) == 4
    assert [block.multiplier.tolist() for block in blocks] == [[1.0]] * 4
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in plain.modules())
    assert not any("multiplier" in name for name, _ in normalised.named_parameters())
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in normalised.modules()) == 9


@pytest.mark.parametrize("model", MODELS)
def test_the_last_digits_are_held_out_and_never_trained_on(model):
    problem = Digits(model=model, num_examples=30, num_test_examples=7).build(0, torch.float64)
    x, y = digits()
    assert torch.equal(problem.batch[0].flatten(1), x[:30])
    assert torch.equal(problem.test_batch[0].flatten(1), x[-7:])
    assert torch.equal(problem.test_batch[1].argmax(1), y[-7:])
    assert Digits(model=model, num_test_examples=97).build(0, torch.float32).num_examples == 1700


@pytest.mark.parametrize(
    ("num_examples", "num_test_examples", "words"),
    [
        (1700, 98, "num_examples: must be between 1 and 1699; got 1700. The last 98 of 1797 are held out."),
        (0, 0, "num_examples: must be between 1 and 1797; got 0."),
        (1798, 0, "num_examples: must be between 1 and 1797; got 1798."),
        (None, 1797, "num_test_examples: must be between 0 and 1796; got 1797. There are 1797 examples."),
        (None, -1, "num_test_examples: must be between 0 and 1796; got -1."),
        (5, 2**45, "num_test_examples: must be between 0 and 1796"),
    ],
)
def test_digits_that_are_not_there_or_would_be_in_both_parts_are_refused(num_examples, num_test_examples, words):
    config = Digits(num_examples=num_examples, num_test_examples=num_test_examples)
    with pytest.raises(ConfigError) as error:
        config.build(0, torch.float32)
    assert str(error.value).startswith(f"problem.{words}")


@pytest.mark.parametrize("model", MODELS)
def test_a_network_is_a_function_of_its_seed(model):
    before = torch.get_rng_state()
    first, again, other = (Digits(model=model, num_examples=5).build(seed, torch.float32) for seed in (3, 3, 4))
    assert torch.equal(first.w, again.w)
    assert not torch.equal(first.w, other.w)
    assert torch.equal(before, torch.get_rng_state())


def test_a_wide_residual_network_for_cifar_may_be_made_small(keep):
    keep("cifar10", members("cifar10"))
    for model in ("wrn", "wrn_bn"):
        problem = Cifar10(model=model, channels=(4, 6, 8), blocks=2).build(0, torch.float32)
        assert sum(isinstance(block, WideBlock) for block in problem.model) == 6
        assert problem.loss_fn(problem.model, problem.batch).isfinite()
        assert problem.model[:7](problem.batch[0]).shape == (20, 8, 8, 8)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "wnr"}, "Did you mean 'wrn'?"),
        ({"model": "wrn", "hidden": (5,)}, "problem.hidden: 'wrn' has none; got (5,)"),
        ({"model": "wrn_bn", "activation": "tanh"}, "it is for 'fc', 'cnn'"),
        ({"channels": (5,)}, "problem.channels: 'fc' has none; got (5,). Leave it out: it is for 'wrn', 'wrn_bn'."),
        ({"model": "cnn", "blocks": 2}, "problem.blocks: 'cnn' has none"),
        ({"model": "wrn", "channels": ()}, "at least one group"),
        ({"model": "wrn", "channels": (4, 0)}, "widths must be at least 1; got [4, 0]"),
        ({"model": "wrn", "blocks": 0}, "problem.blocks: must be a whole number, at least 1; got 0"),
        ({"model": "wrn", "blocks": 2**45}, "problem.blocks: must be at most 1000"),
        ({"loss": "mae"}, "Did you mean 'mse'?"),
    ],
)
@pytest.mark.parametrize("kind", [Digits, Cifar10])
def test_a_setting_that_a_network_does_not_have_is_refused(kind, settings, words):
    with pytest.raises(ConfigError) as error:
        kind(**settings)
    assert words in str(error.value)


def test_a_configuration_survives_toml():
    for problem in (
        Digits(model="wrn", channels=(4, 6), blocks=3, num_examples=9, num_test_examples=8),
        Cifar10(model="wrn_bn", channels=(4,), blocks=1),
    ):
        config = RunConfig(problem=problem, method=RECIPES["adam"](lr=1e-3))
        assert from_mapping(tomllib.loads(config.to_toml())) == config
