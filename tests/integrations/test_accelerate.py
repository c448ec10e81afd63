"""A plain loop under Accelerate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tightrope.curvature import MicroBatches
from tightrope.stability import Probe

from .found import assert_equal, events, num_hooks, state_of

pytest.importorskip("accelerate", reason="Accelerate is not installed; `make slow` installs it")

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from tightrope.integrations.accelerate import watch


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


class Net(nn.Module):
    def __init__(self, rate):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(rate), nn.Linear(16, 3))

    def forward(self, x):
        return self.net(x)


def cross_entropy(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def loader(num=84, size=8):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(num, 6, generator=generator), torch.randint(3, (num,), generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=size, shuffle=True)


def loop(settings=None, loss_fn=cross_entropy, *, is_steady=False, precision="no"):
    """Two epochs, whose last steps are of one micro-batch instead of two; without settings it runs alone.

    A steady one is by gradient descent at one rate, without dropout.
    """
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, mixed_precision=precision)
    model = Net(0.0 if is_steady else 0.3)
    optimizer = (torch.optim.SGD if is_steady else torch.optim.AdamW)(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=1.0 if is_steady else 0.8)
    model, optimizer, data, schedule = accelerator.prepare(model, optimizer, loader(), schedule)
    watcher = None if settings is None else watch(accelerator, model, optimizer, loss_fn, **settings)
    kept = {"losses": [], "parts": [], "weights": []}
    for batch in (batch for _ in range(2) for batch in data):
        with accelerator.accumulate(model):
            loss = cross_entropy(model, batch)
            accelerator.backward(loss)
            kept["parts"].append(batch)
            kept["losses"].append(loss.item())
            kept["weights"].append(torch.cat([w.detach().flatten() for w in model.parameters()]))
            if accelerator.sync_gradients and not is_steady:
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if watcher is not None:
            watcher.step(batch, loss)
    if watcher is not None:
        watcher.close()
    return model, optimizer.optimizer, watcher, kept


def test_a_watched_loop_is_bit_for_bit_the_unwatched_one():
    model, optimizer, _, alone = loop()
    one = state_of(model, optimizer)
    model, optimizer, watcher, watched = loop({"every": 2, "clip_norm": 0.5})
    assert_equal(state_of(model, optimizer), one)
    assert watched["losses"] == alone["losses"]
    assert len(events(watcher.watcher, "measurement")) == 6
    assert num_hooks(model) == 0
    assert not optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_reading_is_the_labs_number_at_the_same_state(precision):
    """Under bfloat16 autocast too, in the weights' own precision."""
    model, optimizer, watcher, kept = loop({"every": 5}, is_steady=True, precision=precision)
    vars(model).pop("forward", None)  # Accelerate's, with autocast
    probe, readings = Probe(model, cross_entropy, rtol=1e-6), events(watcher.watcher, "measurement")
    # Micro-batches 0 to 10 make six steps of the first epoch, of which the last is of one that counts half.
    for reading, step, last, parts in zip(readings, (5, 10), (9, 18), ((8, 9), (17, 18)), strict=True):
        batch = MicroBatches([kept["parts"][i] for i in parts])
        lab = probe.measure(optimizer, batch, w=kept["weights"][last])
        assert reading["step"] == step
        assert reading["ratio"] == pytest.approx(lab.ratio, abs=reading["residual"])
        assert reading["loss"] == pytest.approx(lab.loss, rel=1e-5)
    losses = [step["loss"] for step in events(watcher.watcher, "step")]
    assert losses[0] == pytest.approx(sum(kept["losses"][:2]) / 2, rel=1e-6)
    assert losses[5] == pytest.approx(kept["losses"][10] / 2, rel=1e-6)


def test_a_loss_that_raises_does_not_reach_the_loop(capsys):
    def broken(model, batch):
        raise KeyError("no such thing")

    loop({"every": 1}, broken)
    assert "no such thing" in capsys.readouterr().err


def test_an_interrupt_passes():
    def interrupted(model, batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop({"every": 1}, interrupted)


def test_a_setting_that_does_not_exist_is_said_and_the_loop_goes_on(capsys):
    _, _, watcher, _ = loop({"evry": 1})
    assert not watcher.watcher.is_on
    assert "goes on unwatched" in capsys.readouterr().err
