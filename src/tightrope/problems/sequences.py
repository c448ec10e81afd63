"""Sequences of tokens as problems: a transformer that copies or reverses random ones, and what any such problem is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tightrope.errors import ConfigError, check_count
from tightrope.parameters import share_storage

from .losses import PAD, token_cross_entropy
from .problem import Batch, Problem, ProblemConfig, check_choice
from .transformer import NORMS, Transformer

TASKS = ("copy", "reverse")
MAX_TOKENS = 2**40
MAX_LAYERS = 1000
"""Beyond these no machine holds the data or the model."""


class Sequences(ProblemConfig, frozen=True, tag="sequences"):
    """An encoder-decoder transformer that copies or reverses sequences of random tokens.

    The tokens are drawn by `data_seed`, not by the run's seed: runs of different seeds see the same data. The
    held-out sequences are those drawn after the training ones.

    Attributes:
        task: "copy" or "reverse".
        norm: "pre" or "post", where LayerNorm stands.
        layers: In the encoder, and in the decoder.
        width: Of the embeddings; the feed-forward parts have four times as many.
        heads: Of each attention.
        vocabulary: Different tokens.
        length: Tokens in a sequence.
        num_examples, num_test_examples: Sequences to train on, and held out as the problem's `test_batch`.
        data_seed: Draws the tokens.
    """

    task: str = "copy"
    norm: str = "pre"
    layers: int = 2
    width: int = 32
    heads: int = 4
    vocabulary: int = 16
    length: int = 8
    num_examples: int = 256
    num_test_examples: int = 0
    data_seed: int = 0

    def __post_init__(self) -> None:
        check_choice("problem.task", self.task, TASKS)
        check_transformer(self.norm, self.layers, self.width, self.heads)
        for name in ("vocabulary", "length", "num_examples"):
            check_count(f"problem.{name}:", getattr(self, name))
        for name in ("num_test_examples", "data_seed"):
            check_count(f"problem.{name}:", getattr(self, name), 0)
        num_tokens = (self.num_examples + self.num_test_examples) * self.length
        if num_tokens > MAX_TOKENS:
            raise ConfigError(f"problem: must have at most {MAX_TOKENS} tokens; got {num_tokens}. Make it smaller.")

    def build(self, seed: int, dtype: torch.dtype) -> Problem:
        shape = (self.num_examples + self.num_test_examples, self.length)
        source = torch.from_numpy(np.random.default_rng(self.data_seed).integers(self.vocabulary, size=shape))
        target = source.flip(1) if self.task == "reverse" else source.clone()
        model = Transformer(
            self.vocabulary,
            self.vocabulary,
            self.length,
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            norm=self.norm,
            generator=torch.Generator().manual_seed(seed),
        )
        return sequence_problem(model, (source, target), self.num_examples, self.num_test_examples, dtype)


def sequence_problem(
    model: Transformer, pairs: tuple[Tensor, Tensor], num_examples: int, num_test_examples: int, dtype: torch.dtype
) -> Problem:
    """A transformer that is to say the targets of the first examples, in cross-entropy a token, with teacher forcing.

    The last examples are held out. In full batch the loss is the mean over tokens; see `token_cross_entropy`.
    """
    model = model.to(dtype)
    batch = tuple(tokens[:num_examples] for tokens in pairs)
    first_test = len(pairs[0]) - num_test_examples
    test = tuple(tokens[first_test:] for tokens in pairs) if num_test_examples else None
    tokens_per_example = int((batch[1] != PAD).sum()) / num_examples
    return Problem(
        model,
        share_storage(model),
        batch,
        lambda model, batch: token_cross_entropy(model(*batch), batch[1], tokens_per_example),
        test,
        wrong_tokens,
    )


def wrong_tokens(model: Transformer, batch: Batch) -> Tensor:
    """Which target tokens are not the likeliest ones, PAD left out."""
    target = batch[1]
    wrong: Tensor = model(*batch).argmax(-1) != target
    return wrong[target != PAD]


def check_transformer(norm: str, layers: int, width: int, heads: int) -> None:
    """Raise unless a transformer of these sizes can be built.

    Raises:
        ConfigError: a size is below 1, the width no even multiple of the heads, or `norm` unknown.
    """
    check_choice("problem.norm", norm, NORMS)
    for name, value in (("layers", layers), ("width", width), ("heads", heads)):
        check_count(f"problem.{name}:", value)
    if layers > MAX_LAYERS:
        raise ConfigError(f"problem.layers: must be at most {MAX_LAYERS}; got {layers}.")
    if width % heads or width % 2:
        raise ConfigError(f"problem.width: must be even and a multiple of the {heads} heads; got {width}.")
