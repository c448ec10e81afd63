"""A small GPT that learns a text character by character, with tightrope watching how far it is from the edge.

    python examples/char_gpt.py                    # a text that comes with Python: its language reference
    python examples/char_gpt.py --text mine.txt    # any text of yours

The lines that belong to tightrope end in `# tightrope`. Without them (`--no-watch`) the run is bit for bit the same.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import tightrope as tr  # tightrope

BATCH, CONTEXT, WIDTH, HEADS, LAYERS = 256, 24, 32, 4, 2
LR, WARMUP, CLIP = 2e-2, 500, 1.0  # a long warmup, so that the way to the edge can be watched


class Block(nn.Module):
    """Causal self-attention and a small network, each added to what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """(n, length, WIDTH) -> the same."""
        qkv = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(*qkv, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Characters (n, length) -> scores of the character that follows each, (n, length, vocabulary)."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(vocabulary, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, vocabulary)

    def forward(self, characters: Tensor) -> Tensor:
        """Scores of what follows."""
        x = self.characters(characters) + self.places.weight[: characters.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy of the next character."""
    return functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def windows(text: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Stretches of the text, and the same one character on."""
    index = starts[:, None] + torch.arange(CONTEXT)
    return text[index], text[index + 1]


def read(path: Path | None) -> str:
    """The text of a file, or else the language reference that comes with Python, for its `help()`."""
    if path is not None:
        return path.read_text(encoding="utf-8")
    from pydoc_data.topics import topics

    return "\n".join(topics.values())


def factor(step: int, num_steps: int) -> float:
    """Of the learning rate: up in a line, down along half a cosine."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, num_steps - WARMUP)))


def main(arguments: Sequence[str] | None = None) -> float:
    """Train; returns the final training loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a text file; default one that comes with Python")
    parser.add_argument("--watch", action=argparse.BooleanOptionalAction, default=True, help="let tightrope watch")
    parser.add_argument("--budget", type=float, default=0.03, help="share of the process time for watching")
    parser.add_argument("--every", type=int, help="a reading every so many steps instead, whatever it costs")
    parser.add_argument("--probe", type=int, default=256, help="examples to measure on")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--run-dir", type=Path, help="default a new one below runs/")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    text = read(options.text)
    alphabet = {character: number for number, character in enumerate(sorted(set(text)))}
    characters = torch.tensor([alphabet[character] for character in text])
    num_starts = len(characters) - CONTEXT
    model = GPT(len(alphabet))
    num_weights = sum(w.numel() for w in model.parameters())
    print(f"{len(text):,} characters, {len(alphabet)} different; {num_weights:,} weights")
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.99), weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, options.steps))
    watcher, share = None, 0.0
    if options.watch:
        probe = windows(characters, torch.linspace(0, num_starts - 1, options.probe).long())
        watcher = tr.watch(  # tightrope
            model, optimizer, loss_fn, probe=probe, budget=options.budget, every=options.every,
            run_dir=options.run_dir, clip_norm=CLIP,
        )  # fmt: skip

    losses, began = [], time.process_time()
    for step in range(options.steps):
        batch = windows(characters, torch.randint(num_starts, (BATCH,)))
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        scheduler.step()
        if watcher:
            watcher.step(batch, loss)  # tightrope
        losses.append(loss.item())
        if (step + 1) % 250 == 0:
            print(f"step {step + 1:5}: loss {sum(losses[-50:]) / 50:.4f}", flush=True)
    seconds = time.process_time() - began
    if watcher:
        share = watcher.overhead
        watcher.close()  # tightrope

    final = sum(losses[-50:]) / len(losses[-50:])
    print(f"final training loss  {final!r}, the mean of the last {len(losses[-50:])} steps")
    print(f"process time         {seconds:.1f} s, {share:.1%} of it watching")
    print(f"run directory        {watcher.run_dir if watcher else 'none'}")
    return final


if __name__ == "__main__":
    main()
