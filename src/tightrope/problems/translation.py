"""Translation as a problem: the paper's transformer on any parallel corpus."""

from __future__ import annotations

import torch

from tightrope.errors import check_count

from .corpus import Vocabulary, read_pairs
from .data import split
from .problem import Problem, ProblemConfig
from .sequences import check_transformer, sequence_problem
from .transformer import Transformer


class Translation(ProblemConfig, frozen=True, tag="translation"):
    """An encoder-decoder transformer on two text files, each other's translation line by line.

    Words are what spaces separate. Each side's vocabulary is taken from its training sentences; all other words are
    one token. A target ends in a token of its own. The defaults are the paper's network for WMT English-German,
    which has not been tried at that size; the paper has pieces of words for words, which a corpus split so gives.

    Attributes:
        source, target: Paths of the files.
        norm, layers, width, heads: As in `Sequences`; the paper's are six layers, 512 wide, 8 heads.
        vocabulary: Words on each side, the most frequent.
        max_length: Pairs with a sentence of more words are left out.
        num_examples: The first so many pairs to train on; None for all that are not held out.
        num_test_examples: The last so many, as the problem's `test_batch`.
    References:
        Cohen et al. 2022 (arXiv 2207.14484), Figure 7.
    """

    source: str
    target: str
    norm: str = "pre"
    layers: int = 6
    width: int = 512
    heads: int = 8
    vocabulary: int = 32_000
    max_length: int = 256
    num_examples: int | None = None
    num_test_examples: int = 0

    def __post_init__(self) -> None:
        check_transformer(self.norm, self.layers, self.width, self.heads)
        for name in ("vocabulary", "max_length"):
            check_count(f"problem.{name}:", getattr(self, name))

    def build(self, seed: int, dtype: torch.dtype) -> Problem:
        pairs = read_pairs(self.source, self.target, self.max_length)
        num_train = split(len(pairs), self.num_examples, self.num_test_examples)
        used = pairs[:num_train] + pairs[len(pairs) - self.num_test_examples :]
        (sources, targets), (source, target) = (
            [[pair[side] for pair in used] for side in (0, 1)],
            [Vocabulary((pair[side] for pair in pairs[:num_train]), self.vocabulary) for side in (0, 1)],
        )
        end = target.unknown + 1
        tokens = source.encoded(sources), target.encoded(targets, last=end)
        model = Transformer(
            source.unknown + 1,
            end + 1,
            max(tokens[0].shape[1], tokens[1].shape[1]),
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            norm=self.norm,
            generator=torch.Generator().manual_seed(seed),
        )
        return sequence_problem(model, tokens, num_train, self.num_test_examples, dtype)
