"""An encoder-decoder transformer with attention written out, so that it can be differentiated twice.

Legend: n examples, s and t tokens of source and target, d width. Weights are N(0, 1 / fan_in), biases zero, embeddings
N(0, 1); attention has no biases. There is no dropout: a full-batch loss is a function of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from .losses import PAD
from .models import drawn

NORMS = ("pre", "post")


class Attention(nn.Module):
    """Multi-head attention of x (n, t, d) to a memory (n, s, d), where a mask lets it look."""

    def __init__(self, width: int, heads: int, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.heads = heads
        self.queries, self.keys, self.values, self.output = (
            drawn(skip_init(nn.Linear, width, width, bias=False), generator) for _ in range(4)
        )

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self._split(self.queries(x)), self._split(self.keys(memory)), self._split(self.values(memory))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
        output: Tensor = self.output((weights @ v).transpose(1, 2).flatten(2))
        return output

    def _split(self, x: Tensor) -> Tensor:
        """(n, heads, t, d / heads)."""
        return x.view(*x.shape[:-1], self.heads, -1).transpose(1, 2)


class Layer(nn.Module):
    """Attention to itself, in a decoder to the encoder's output too, and a feed-forward part, each added to its input.

    Pre-LN normalises what goes into a part, Post-LN the sum.
    """

    def __init__(self, width: int, heads: int, norm: str, is_decoder: bool, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.is_pre = norm == "pre"
        self.attention = Attention(width, heads, generator)
        self.cross_attention = Attention(width, heads, generator) if is_decoder else None
        self.feed_forward = nn.Sequential(
            drawn(skip_init(nn.Linear, width, 4 * width), generator),
            nn.ReLU(),
            drawn(skip_init(nn.Linear, 4 * width, width), generator),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 if is_decoder else 2))

    def forward(
        self, x: Tensor, mask: Tensor, memory: Tensor | None = None, memory_mask: Tensor | None = None
    ) -> Tensor:
        x = self._added(x, self.norms[0], lambda y: self.attention(y, y, mask))
        if self.cross_attention is not None:
            cross = self.cross_attention
            x = self._added(x, self.norms[1], lambda y: cross(y, memory, memory_mask))
        return self._added(x, self.norms[-1], self.feed_forward)

    def _added(self, x: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor]) -> Tensor:
        total: Tensor = x + part(norm(x)) if self.is_pre else norm(x + part(x))
        return total


class Transformer(nn.Module):
    """Encoder-decoder transformer with fixed sinusoidal positions.

    Args:
        num_source, num_target: Different tokens on either side, 0 and up.
        max_length: Tokens a sequence has at most.
        layers: In the encoder, and in the decoder.
        width: Of the embeddings, a multiple of `heads` and even; the feed-forward parts have four times as many.
        heads: Of each attention.
        norm: "pre" or "post": LayerNorm before each part (and after the last), or after each sum.
        generator: Draws the weights.
    References:
        Vaswani et al. 2017 (arXiv 1706.03762); Xiong et al. 2020 (arXiv 2002.04745) for Pre-LN. Bias-free attention,
        embeddings apart from each other and N(0, 1), and ReLU are as in google/init2winit, which arXiv 2207.14484 used.
    """

    def __init__(
        self,
        num_source: int,
        num_target: int,
        max_length: int,
        *,
        layers: int,
        width: int,
        heads: int,
        norm: str,
        generator: torch.Generator,
    ) -> None:
        nn.Module.__init__(self)
        self.start = num_target
        self.source_embedding = _embedding(num_source, width, generator)
        self.target_embedding = _embedding(num_target + 1, width, generator)
        self.encoder, self.decoder = (
            nn.ModuleList(Layer(width, heads, norm, is_decoder, generator) for _ in range(layers))
            for is_decoder in (False, True)
        )
        self.encoder_norm, self.decoder_norm = (
            nn.LayerNorm(width) if norm == "pre" else nn.Identity() for _ in range(2)
        )
        self.classifier = drawn(skip_init(nn.Linear, width, num_target), generator)
        self.register_buffer("positions", _sinusoids(max_length, width))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Logits (n, t, c) of each target token, from the source (n, s) and the target tokens before it."""
        is_word = (source != PAD)[:, None, None, :]
        x = self._embedded(self.source_embedding, source)
        for layer in self.encoder:
            x = layer(x, is_word)
        memory = self.encoder_norm(x)
        shifted = nn.functional.pad(target[:, :-1], (1, 0), value=self.start)
        is_past = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool, device=target.device).tril()
        y = self._embedded(self.target_embedding, shifted)
        for layer in self.decoder:
            y = layer(y, is_past, memory, is_word)
        logits: Tensor = self.classifier(self.decoder_norm(y))
        return logits

    def _embedded(self, embedding: nn.Module, tokens: Tensor) -> Tensor:
        # PAD has no embedding: nothing looks at what stands there, in the source by the mask, in the target because
        # it comes last.
        embedded: Tensor = embedding(tokens.clamp(min=0))
        return embedded + self.get_buffer("positions")[: tokens.shape[1]]


def _embedding(num_tokens: int, width: int, generator: torch.Generator) -> nn.Module:
    layer: nn.Module = skip_init(nn.Embedding, num_tokens, width)
    nn.init.normal_(layer.get_parameter("weight"), generator=generator)
    return layer


def _sinusoids(length: int, width: int) -> Tensor:
    """(length, width) float64: sines and cosines of positions, at frequencies from 1 down to 1 / 10,000."""
    frequencies = 10_000 ** -torch.linspace(0, 1, width // 2, dtype=torch.float64)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
