"""Sequences: the transformer against torch's own, its data, and what a run of one is."""

from __future__ import annotations

import tomllib

import pytest
import torch
from torch import nn

import tightrope as tr
from tightrope.curvature import Hessian
from tightrope.errors import ConfigError
from tightrope.optim import RECIPES
from tightrope.problems import Sequences, Transformer, token_cross_entropy
from tightrope.problems.losses import PAD
from tightrope.training import MeasureConfig, RunConfig, from_mapping

NORMS = ("pre", "post")
SMALL = {"layers": 1, "width": 8, "heads": 2, "vocabulary": 3, "length": 4, "num_examples": 5}


def transformer(norm, width=8, heads=2, layers=2):
    generator = torch.Generator().manual_seed(0)
    model = Transformer(5, 4, 7, layers=layers, width=width, heads=heads, norm=norm, generator=generator).double()
    with torch.no_grad():  # norms and biases that are not what they start from
        for w in model.parameters():
            w += 0.1 * torch.randn(w.shape, dtype=w.dtype, generator=generator)
    return model


def tokens(n=3, s=6, t=5):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(5, (n, s), generator=generator), torch.randint(4, (n, t), generator=generator)


def fill(theirs, own):
    """Give torch's multi-head attention the weights of ours."""
    theirs.in_proj_weight.copy_(torch.cat([own.queries.weight, own.keys.weight, own.values.weight]))
    theirs.out_proj.weight.copy_(own.output.weight)
    theirs.in_proj_bias.zero_()
    theirs.out_proj.bias.zero_()


@torch.no_grad()
def torchs(model, norm, width=8, heads=2):
    """The same layers out of torch: encoder, decoder."""
    kind = {"dropout": 0.0, "batch_first": True, "norm_first": norm == "pre", "dtype": torch.float64}
    encoder = [nn.TransformerEncoderLayer(width, heads, 4 * width, **kind) for _ in model.encoder]
    decoder = [nn.TransformerDecoderLayer(width, heads, 4 * width, **kind) for _ in model.decoder]
    for theirs, own in zip([*encoder, *decoder], [*model.encoder, *model.decoder], strict=True):
        fill(theirs.self_attn, own.attention)
        if own.cross_attention is not None:
            fill(theirs.multihead_attn, own.cross_attention)
        for i, part in ((1, own.feed_forward[0]), (2, own.feed_forward[2])):
            getattr(theirs, f"linear{i}").load_state_dict(part.state_dict())
        for i, part in enumerate(own.norms, start=1):
            getattr(theirs, f"norm{i}").load_state_dict(part.state_dict())
    return encoder, decoder


def torchs_logits(model, norm, source, target):
    encoder, decoder = torchs(model, norm)
    is_pad, t = source == PAD, target.shape[1]
    x = model.source_embedding.weight[source.clamp(min=0)] + model.positions[: source.shape[1]]
    for layer in encoder:
        x = layer(x, src_key_padding_mask=is_pad)
    memory = model.encoder_norm(x)
    shifted = torch.cat([torch.full((len(target), 1), 4), target[:, :-1]], dim=1)
    y = model.target_embedding.weight[shifted.clamp(min=0)] + model.positions[:t]
    is_future = torch.ones(t, t).triu(1).bool()
    for layer in decoder:
        y = layer(y, memory, tgt_mask=is_future, memory_key_padding_mask=is_pad)
    return model.classifier(model.decoder_norm(y))


@pytest.mark.parametrize("norm", NORMS)
def test_the_transformer_computes_what_torchs_layers_do(norm):
    model, (source, target) = transformer(norm), tokens()
    source[0, 4:] = PAD
    expected = torchs_logits(model, norm, source, target)
    assert torch.allclose(model(source, target), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_only_pre_ln_normalises_after_its_last_layers(norm):
    model = transformer(norm)
    assert isinstance(model.encoder_norm, nn.LayerNorm) == isinstance(model.decoder_norm, nn.LayerNorm)
    assert isinstance(model.encoder_norm, nn.LayerNorm) == (norm == "pre")


def test_positions_are_sines_and_cosines_of_frequencies_from_1_to_a_ten_thousandth():
    positions = transformer("pre", width=8).positions
    assert positions.shape == (7, 8)
    for position, row in enumerate(positions.tolist()):
        angles = torch.tensor([position * 10_000 ** (-i / 3) for i in range(4)], dtype=torch.float64)
        assert row == pytest.approx([*angles.sin().tolist(), *angles.cos().tolist()], abs=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_a_token_is_told_from_those_before_it_only(norm):
    model, (source, target) = transformer(norm), tokens()
    changed = target.clone()
    changed[:, 2] = (target[:, 2] + 1) % 4
    before, after = model(source, target), model(source, changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


@pytest.mark.parametrize("norm", NORMS)
def test_padding_changes_neither_logits_nor_gradient(norm):
    model, (source, target) = transformer(norm), tokens()
    padded = [torch.cat([each, torch.full((3, 1), PAD)], dim=1) for each in (source, target)]
    assert torch.allclose(model(*padded)[:, :-1], model(source, target), rtol=1e-12, atol=1e-12)
    gradients = []
    for pair in ((source, target), padded):
        model.zero_grad()
        token_cross_entropy(model(*pair), pair[1], 5.0).backward()
        gradients.append(torch.cat([w.grad.flatten() for w in model.parameters()]))
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("norm", NORMS)
def test_hessian_vector_products_are_those_of_finite_differences(norm):
    problem = Sequences(norm=norm, **SMALL).build(0, torch.float64)
    H = Hessian(problem.model, problem.loss_fn, problem.batch)
    w = problem.w.detach().clone()
    v = torch.randn(H.size, dtype=H.dtype, generator=torch.Generator().manual_seed(1))
    expected, step = H @ v, 1e-5

    def gradient(at):
        with torch.no_grad():
            problem.w.copy_(at)
        problem.gradient.zero_()
        problem.loss_fn(problem.model, problem.batch).backward()
        return problem.gradient.clone()

    found = (gradient(w + step * v) - gradient(w - step * v)) / (2 * step)
    assert float((found - expected).norm()) < 1e-6 * float(expected.norm())


@pytest.mark.parametrize("norm", NORMS)
def test_weights_are_drawn_as_said(norm):
    model = Sequences(norm=norm, width=64, num_examples=2).build(0, torch.float64).model
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            spread = 4 / (2 * layer.weight.numel()) ** 0.5  # four standard errors
            assert float(layer.weight.detach().std()) == pytest.approx(layer.in_features**-0.5, rel=spread), name
            assert layer.bias is None or bool((layer.bias == 0).all())
        elif isinstance(layer, nn.Embedding):
            assert float(layer.weight.detach().std()) == pytest.approx(1, rel=4 / (2 * layer.weight.numel()) ** 0.5)


def test_targets_are_copied_or_reversed():
    copied = Sequences(task="copy", **SMALL).build(0, torch.float32)
    turned = Sequences(task="reverse", **SMALL).build(0, torch.float32)
    assert torch.equal(copied.batch[1], copied.batch[0])
    assert turned.batch[1].tolist() == [row[::-1] for row in copied.batch[0].tolist()]
    assert copied.batch[0].unique().tolist() == [0, 1, 2]


def test_the_data_follow_their_own_seed_and_the_weights_the_runs():
    first, other = (Sequences(**SMALL).build(seed, torch.float32) for seed in (0, 1))
    assert first.digest() == other.digest()
    assert not torch.equal(first.w, other.w)
    elsewhere = Sequences(data_seed=1, **SMALL).build(0, torch.float32)
    assert torch.equal(elsewhere.w, first.w)
    assert elsewhere.digest() != first.digest()
    assert torch.equal(first.w, Sequences(**SMALL).build(0, torch.float32).w)


def test_more_sequences_begin_with_the_fewer_and_those_held_out_come_after():
    few = Sequences(**SMALL).build(0, torch.float32)
    more = Sequences(**{**SMALL, "num_examples": 9}, num_test_examples=4).build(0, torch.float32)
    all_of_them = Sequences(**{**SMALL, "num_examples": 13}).build(0, torch.float32)
    assert torch.equal(more.first(5)[0], few.batch[0])
    assert torch.equal(torch.cat([more.batch[1], more.test_batch[1]]), all_of_them.batch[1])


def test_the_loss_is_the_mean_over_tokens_and_the_error_the_share_of_wrong_ones():
    problem = Sequences(task="reverse", num_test_examples=7, **SMALL).build(0, torch.float64)
    losses, wrong = [], 0
    for source, target in zip(*problem.test_batch, strict=True):
        logits = problem.model(source[None], target[None])[0].detach()
        losses += (-logits.log_softmax(1)[range(4), target]).tolist()
        wrong += int((logits.argmax(1) != target).sum())
    said = problem.test()
    assert said["num_examples"] == 7
    assert said["loss"] == pytest.approx(sum(losses) / 28, rel=1e-12)
    assert said["error"] == wrong / 28
    assert 0 < wrong < 28


def test_rows_are_whole_examples():
    problem = Sequences(task="reverse", **SMALL).build(0, torch.float32)
    source, target = problem.rows(torch.tensor([4, 1]))
    assert torch.equal(source, problem.batch[0][[4, 1]])
    assert torch.equal(target, source.flip(1))


@pytest.mark.parametrize("norm", NORMS)
def test_a_run_of_sequences_learns_and_is_measured(norm, tmp_path):
    config = RunConfig(
        problem=Sequences(norm=norm, num_test_examples=3, **{**SMALL, "num_examples": 16}),
        method=RECIPES["adam"](lr=3e-3),
        num_steps=60,
        batch_size=8,
        measure=MeasureConfig(every=30),
    )
    record = tr.run(config, out=tmp_path / "run")
    assert record.steps["loss"][-5:].mean() < 0.7 * record.steps["loss"][0]
    assert set(record.measurements["status"].tolist()) == {"converged"}
    assert 0 <= record.test["error"] <= 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"task": "revers"}, "Did you mean 'reverse'?"),
        ({"norm": "prelude"}, "Did you mean 'pre'?"),
        ({"width": 30}, "must be even and a multiple of the 4 heads; got 30"),
        ({"width": 3, "heads": 1}, "must be even"),
        ({"layers": 0}, "problem.layers: must be a whole number, at least 1; got 0"),
        ({"layers": 2**45}, "problem.layers: must be at most 1000"),
        ({"vocabulary": 0}, "problem.vocabulary: must be a whole number, at least 1"),
        ({"num_examples": 0}, "problem.num_examples: must be a whole number, at least 1"),
        ({"num_test_examples": -1}, "problem.num_test_examples: must be a whole number, at least 0"),
        ({"data_seed": -1}, "problem.data_seed: must be a whole number, at least 0"),
        ({"num_examples": 2**45, "length": 2**45}, "problem: must have at most"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, words):
    with pytest.raises(ConfigError) as error:
        Sequences(**settings)
    assert words in str(error.value)


def test_a_configuration_survives_toml():
    config = RunConfig(problem=Sequences(task="reverse", norm="post", data_seed=3), method=RECIPES["adam"](lr=1e-3))
    assert from_mapping(tomllib.loads(config.to_toml())) == config
