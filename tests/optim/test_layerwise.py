"""Layer-wise learning rates: which layers are found, what each parameter gets, and that it trains."""

import pytest
import torch
from torch import nn

from tightrope.errors import ConfigError
from tightrope.optim import AdamW, Cosine, layerwise_groups


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))


class Encoder(nn.Module):
    def __init__(self, depth, width):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(5, width))
        self.embedding = nn.Embedding(7, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)


class Classifier(nn.Module):
    def __init__(self, depth=11, width=4):
        super().__init__()
        self.encoder = Encoder(depth, width)
        self.drop = nn.Dropout()
        self.head = nn.Linear(width, 2)


def rates(model, **options):
    """Learning rate of each trainable parameter, by name."""
    name_of = {id(w): name for name, w in model.named_parameters()}
    groups = layerwise_groups(model, **{"lr": 1.0, "decay": 0.5, **options})
    return {name_of[id(w)]: group["lr"] for group in groups for w in group["params"]}


def names(model, **options):
    return [group["name"] for group in layerwise_groups(model, 1.0, 0.5, **options)]


def test_every_block_of_a_transformer_is_a_layer_between_embedding_and_head():
    blocks = [f"encoder.blocks.{i}" for i in range(11)]
    assert names(Classifier()) == ["encoder.embedding", *blocks, "encoder.norm", "head"]


def test_a_layers_rate_falls_by_the_factor_for_every_layer_above_it():
    found = rates(Classifier())
    assert found["head.weight"] == 1
    assert found["encoder.norm.weight"] == 0.5
    assert found["encoder.blocks.10.mlp.0.weight"] == found["encoder.blocks.10.norm.bias"] == 0.25
    assert found["encoder.blocks.1.mlp.0.weight"] == 0.5**11
    assert found["encoder.embedding.weight"] == found["encoder.position"] == 0.5**13


def test_every_trainable_parameter_is_in_one_group_once():
    model = Classifier()
    grouped = [w for group in layerwise_groups(model, 1.0, has_plain_vectors=True) for w in group["params"]]
    assert len(grouped) == len({id(w) for w in grouped}) == len(list(model.parameters()))


def test_a_stack_of_stacks_is_opened_but_a_block_is_not():
    block = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    assert names(nn.Sequential(block, nn.Linear(2, 1))) == ["0.0", "0.2", "1"]
    assert names(nn.Sequential(Block(2), nn.Linear(2, 1))) == ["0", "1"]


def test_torchs_own_transformer_has_its_layers():
    model = nn.Transformer(8, 2, 2, 3, 8, batch_first=True)
    encoder, decoder = [f"encoder.layers.{i}" for i in range(2)], [f"decoder.layers.{i}" for i in range(3)]
    assert names(model) == [*encoder, "encoder.norm", *decoder, "decoder.norm"]


def test_a_module_without_parts_is_one_layer():
    assert rates(nn.Linear(2, 2)) == {"weight": 1.0, "bias": 1.0}
    assert layerwise_groups(nn.ReLU(), 1.0) == []


def test_an_opened_top_that_holds_all_its_parameters_itself_is_the_top_layer():
    top = nn.Module()
    top.scale, top.stack = nn.Parameter(torch.ones(2)), nn.Sequential(nn.ReLU())
    assert rates(nn.Sequential(nn.Linear(2, 2, bias=False), top)) == {"0.weight": 0.5, "1.scale": 1.0}
    model = nn.Module()
    model.bottom, model.top = nn.Linear(2, 2, bias=False), top
    assert rates(model) == {"bottom.weight": 0.5, "top.scale": 1.0}
    top.scale = model.bottom.weight
    assert rates(model) == {"bottom.weight": 1.0}


def test_a_tied_parameter_is_given_once_at_its_lowest_place():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    model[2].weight = model[0].weight
    assert rates(model) == {"0.weight": 0.5, "0.bias": 0.5, "1.weight": 1.0, "1.bias": 1.0}


def test_a_frozen_parameter_is_left_out_and_its_layer_still_counts():
    model = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(3)))
    model[1].weight.requires_grad_(False)
    assert rates(model) == {"0.weight": 0.25, "2.weight": 1.0}


def test_biases_and_norms_may_go_without_decay():
    model = nn.Sequential(nn.LayerNorm([2, 3]), nn.Linear(3, 2))
    groups = layerwise_groups(model, 1.0, 0.5, has_plain_vectors=True)
    assert [(g["name"], len(g["params"]), g.get("weight_decay")) for g in groups] == [
        ("0", 2, 0.0),
        ("1", 1, None),
        ("1", 1, 0.0),
    ]
    optimizer = AdamW(groups, weight_decay=0.3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.3, 0.0]


def test_layers_may_be_named_and_the_longest_prefix_counts():
    model = nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(12)))
    found = rates(model, layers=[("0", "1"), [str(i) for i in range(2, 11)], "11"])
    assert found["0.weight"] == found["1.weight"] == 0.25
    assert found["10.weight"] == 0.5
    assert found["11.weight"] == 1.0
    assert rates(Classifier(2), layers=["encoder", "encoder.norm", "head"])["encoder.norm.bias"] == 0.5


def test_layers_may_be_a_function_of_the_name():
    found = rates(Classifier(2), layers=lambda name: 3 if name.startswith("head") else 1)
    assert found["head.bias"] == 1.0
    assert found["encoder.position"] == 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": 0.0}, r"decay must be in \(0, 1\]; got 0.0"),
        ({"lr": -1.0}, "lr must be finite and at least 0; got -1.0"),
        ({"lr": float("inf")}, "lr must be finite"),
        ({"layers": ["encoder"]}, "'head.weight' has no prefix in it"),
        ({"layers": ["encoder", "hea", "head"]}, "every prefix must name a part of the model; got 'hea'"),
        ({"layers": lambda name: -1}, r"layers\('encoder.position'\) must be a whole number, at least 0; got -1"),
        ({"layers": lambda name: name}, "must be a whole number, at least 0; got 'encoder.position'"),
        ({"layers": lambda name: 1.0}, "must be a whole number, at least 0; got 1.0"),
        ({"layers": lambda name: True}, "must be a whole number, at least 0; got True"),
    ],
)
def test_layers_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        layerwise_groups(Classifier(), **{"lr": 1.0, **options})


@pytest.mark.parametrize("make", [AdamW, torch.optim.AdamW, lambda groups: torch.optim.SGD(groups, lr=1.0)])
def test_any_optimizer_and_schedule_keeps_the_rates_apart(make):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = make(layerwise_groups(model, 0.1, 0.5))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, Cosine(num_steps=10))
    for _ in range(5):
        model(torch.ones(3, 2)).square().mean().backward()
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.025, 0.05])
