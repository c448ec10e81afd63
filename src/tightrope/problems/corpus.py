"""A parallel corpus as two text files: one sentence a line, words between spaces, and its words as numbers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from tightrope.errors import DataError

from .losses import PAD

Sentence = list[str]
Pair = tuple[Sentence, Sentence]


def read_pairs(source: str, target: str, max_length: int) -> list[Pair]:
    """Sentences that are each other's translation, in order; those with none or too many words on a side left out.

    Raises:
        DataError: a file is missing or no text, they differ in number of lines, or no pair is left.
    """
    sides = [_read(key, path) for key, path in (("source", source), ("target", target))]
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"problem: source and target must have a sentence a line, equally many; {source} has {len(sides[0])} and "
            f"{target} {len(sides[1])}. Are they halves of one corpus?"
        )
    split = ((first.split(), second.split()) for first, second in zip(*sides, strict=True))
    pairs = [pair for pair in split if all(1 <= len(side) <= max_length for side in pair)]
    if not pairs:
        raise DataError(
            f"problem: {source} and {target} must hold a pair of sentences of 1 to {max_length} words; none of "
            f"{len(sides[0])} is one. Set problem.max_length, or other files."
        )
    return pairs


class Vocabulary:
    """The most frequent words, and numbers for them: the words from 0, then one for all other words.

    Args:
        sentences: To count words in; of equally frequent ones the first met comes first.
        size: Words at most.
    """

    def __init__(self, sentences: Iterable[Sentence], size: int) -> None:
        counts = Counter(chain.from_iterable(sentences))
        self.numbers = {word: number for number, (word, _) in enumerate(counts.most_common(size))}

    @property
    def unknown(self) -> int:
        """What stands for any other word."""
        return len(self.numbers)

    def encoded(self, sentences: Sequence[Sentence], last: int | None = None) -> Tensor:
        """(n, t) numbers of the words, `last` after them, then PAD."""
        ending = [] if last is None else [last]
        rows = [[self.numbers.get(word, self.unknown) for word in sentence] + ending for sentence in sentences]
        tokens = torch.full((len(rows), max(map(len, rows))), PAD)
        for row, numbers in zip(tokens, rows, strict=True):
            row[: len(numbers)] = torch.tensor(numbers)
        return tokens


def _read(key: str, path: str) -> list[str]:
    file = Path(os.path.expanduser(path))
    if not os.path.isfile(file):
        raise DataError(
            f"problem.{key}: must be a text file with a sentence a line; there is no file {str(file)!r}. Any parallel "
            "corpus will do: the paper's is WMT English-German (https://www.statmt.org/wmt14/translation-task.html)."
        )
    try:
        # Not splitlines(): it also ends a line where Unicode has a separator, which may stand inside a sentence.
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is something else"
        raise DataError(f"{file}: must be readable text in UTF-8; {why}.") from error
    lines = lines[:-1] if lines[-1] == "" else lines
    if not lines:
        raise DataError(f"{file}: must hold a sentence a line; it is empty.")
    return lines
