"""A convolutional network with BatchNorm on CIFAR-10's images, with tightrope watching how far it is from the edge.

    tightrope fetch cifar10                              # once, 170 MB; then
    python examples/cifar_cnn.py
    python examples/cifar_cnn.py --data images.npz       # or train_x, train_y, test_x, test_y in an .npz

Without the images it trains on scikit-learn's digits. The lines that belong to tightrope end in `# tightrope`. Without
them (`--no-watch`) the run is bit for bit the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import tightrope as tr  # tightrope
from tightrope.errors import TightropeError
from tightrope.problems import Cifar10

BATCH, NUM_IMAGES = 256, 4000
LR, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4


def network(channels: int, widths: Sequence[int] = (16, 32, 64)) -> nn.Sequential:
    """Convolutions with BatchNorm and ReLU that halve the image each, then the mean over what is left of it."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean cross-entropy."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def read(path: Path | None) -> tuple[str, tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
    """What the images are, those to train on and, where there are any, those held out."""
    try:
        data = Cifar10(num_examples=NUM_IMAGES, num_test_examples=1000, path=path and str(path), loss="cross_entropy")
        problem = data.build(seed=0, dtype=torch.float32)
        images, labels = problem.batch
        test_images, test_labels = problem.test_batch
        return "CIFAR-10", (images, labels), (test_images, test_labels)
    except TightropeError as error:
        if path is not None:
            raise SystemExit(str(error)) from None
        print(f"{error}\nSo here are scikit-learn's digits instead, 8 x 8 pixels each.")
        images, labels = (torch.tensor(part) for part in load_digits(return_X_y=True))
        return "digits", ((images.float() / 16).view(-1, 1, 8, 8), labels), None


def main(arguments: Sequence[str] | None = None) -> float:
    """Train; returns the final training loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="CIFAR-10's archive or an .npz; default what `tightrope fetch` got")
    parser.add_argument("--watch", action=argparse.BooleanOptionalAction, default=True, help="let tightrope watch")
    parser.add_argument("--budget", type=float, default=0.03, help="share of the process time for watching")
    parser.add_argument("--every", type=int, help="a reading every so many steps instead, whatever it costs")
    parser.add_argument("--probe", type=int, default=512, help="images to measure on")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--run-dir", type=Path, help="default a new one below runs/")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    torch.manual_seed(options.seed)
    name, (images, labels), held_out = read(options.data)
    model = network(images.shape[1])
    print(f"{len(images):,} images of {name}; {sum(w.numel() for w in model.parameters()):,} weights")
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=LR, total_steps=options.steps, cycle_momentum=False
    )
    watcher, share = None, 0.0
    if options.watch:
        probe = images[: options.probe], labels[: options.probe]
        watcher = tr.watch(  # tightrope
            model, optimizer, loss_fn, probe=probe, budget=options.budget, every=options.every, run_dir=options.run_dir
        )

    losses, began = [], time.process_time()
    for step in range(options.steps):
        rows = torch.randint(len(images), (BATCH,))
        batch = images[rows], labels[rows]
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
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

    if held_out is not None:
        model.eval()
        with torch.no_grad():
            right = (model(held_out[0]).argmax(1) == held_out[1]).float().mean()
        print(f"held-out accuracy    {right:.1%} of {len(held_out[0]):,} images")
    final = sum(losses[-50:]) / len(losses[-50:])
    print(f"final training loss  {final!r}, the mean of the last {len(losses[-50:])} steps")
    print(f"process time         {seconds:.1f} s, {share:.1%} of it watching")
    print(f"run directory        {watcher.run_dir if watcher else 'none'}")
    return final


if __name__ == "__main__":
    main()
