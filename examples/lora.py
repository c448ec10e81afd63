"""LoRA: low-rank corrections of a frozen transformer are fine-tuned, with tightrope watching how far from the edge.

    pip install "tightrope[transformers]"
    python examples/lora.py                    # a text that comes with Python: its language reference
    python examples/lora.py --text mine.txt    # any text of yours

The transformer is a tiny GPT-2 with random weights, so that nothing is downloaded; put your own in its place. The lines
that belong to tightrope end in `# tightrope`. Without them (`--no-watch`) the run is bit for bit the same.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, get_cosine_schedule_with_warmup

import tightrope as tr  # tightrope

BATCH, CONTEXT = 256, 16
LR, WARMUP, CLIP = 1e-2, 500, 1.0  # a long warmup, so that the way to the edge can be watched
ADAPTER = LoraConfig(
    r=16, lora_alpha=32, target_modules=["c_attn", "c_proj", "c_fc"], modules_to_save=["lm_head"],
    fan_in_fan_out=True, task_type="CAUSAL_LM",
)  # fmt: skip
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`")  # what peft 0.21 asks transformers 5.23


def transformer(vocabulary: int) -> GPT2LMHeadModel:
    """A tiny GPT-2 with random weights, large enough that there is something for the corrections to use."""
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=4, initializer_range=0.1,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None, use_cache=False,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy of the next character."""
    return functional.cross_entropy(model(input_ids=batch[0]).logits.flatten(0, 1), batch[1].flatten())


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


def main(arguments: Sequence[str] | None = None) -> float:
    """Train; returns the final training loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a text file; default one that comes with Python")
    parser.add_argument("--watch", action=argparse.BooleanOptionalAction, default=True, help="let tightrope watch")
    parser.add_argument("--budget", type=float, default=0.03, help="share of the process time for watching")
    parser.add_argument("--every", type=int, help="a reading every so many steps instead, whatever it costs")
    parser.add_argument("--probe", type=int, default=256, help="examples to measure on")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--run-dir", type=Path, help="default a new one below runs/")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    text = read(options.text)
    alphabet = {character: number for number, character in enumerate(sorted(set(text)))}
    characters = torch.tensor([alphabet[character] for character in text])
    num_starts = len(characters) - CONTEXT
    model = get_peft_model(transformer(len(alphabet)), ADAPTER)
    weights = [w for w in model.parameters() if w.requires_grad]
    num_weights, num_moved = (sum(w.numel() for w in part) for part in (model.parameters(), weights))
    print(f"{len(text):,} characters, {len(alphabet)} different; {num_moved:,} of {num_weights:,} weights are trained")
    optimizer = torch.optim.AdamW(weights, lr=LR, weight_decay=0.0)
    scheduler = get_cosine_schedule_with_warmup(optimizer, WARMUP, options.steps)
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
        nn.utils.clip_grad_norm_(weights, CLIP)
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
