"""A plain loop under Accelerate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tightrope.curvature import MicroBatches
from tightrope.stability import Probe

from .found import assert_equal, events, num_hooks, state_of

pytest.importorskip("accelerate", reason="Accelerate is not installed; `make slow` installs it")

from accelerate import Accelerator  # noqa: E402
from accelerate.state import AcceleratorState, GradientState  # noqa: E402

from tightrope.integrations.accelerate import watch  # noqa: E402


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


def loop(settings, loss_fn=cross_entropy, rate=0.3, precision="no", steps=2):
    """Two epochs; the second's last step is of one micro-batch. Without settings it runs alone."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=steps, mixed_precision=precision)
    model = Net(rate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=100)
    model, optimizer, data, schedule = accelerator.prepare(model, optimizer, loader(), schedule)
    watcher = None if settings is None else watch(accelerator, model, optimizer, loss_fn, **settings)
    kept = {"losses": [], "parts": [], "weights": [], "norms": []}
    for batch in [batch for _ in range(2) for batch in data]:
        pass
    for _ in range(2):
        for batch in data:
            with accelerator.accumulate(model):
                loss = cross_entropy(model, batch)
                accelerator.backward(loss)
                kept["parts"].append(batch)
                kept["losses"].append(loss.item())
                if accelerator.sync_gradients:
                    kept["norms"].append(float(accelerator.clip_grad_norm_(model.parameters(), 0.5)))
                    kept["weights"].append(torch.cat([w.detach().flatten() for w in model.parameters()]))
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            if watcher is not None:
                watcher.step(batch, loss)
    if watcher is not None:
        watcher.close()
    return model, optimizer, watcher, kept


def test_a_watched_loop_is_bit_for_bit_the_unwatched_one():
    model, optimizer, _, alone = loop(None)
    watched_model, watched_optimizer, watcher, watched = loop({"every": 2, "clip_norm": 0.5})
    random = torch.get_rng_state()
    loop(None)
    assert torch.equal(torch.get_rng_state(), random)
    one, other = state_of(model, optimizer.optimizer), state_of(watched_model, watched_optimizer.optimizer)
    assert_equal(other, one)
    assert watched["losses"] == alone["losses"]
    assert len(events(watcher.watcher, "measurement")) == 6
    assert num_hooks(watched_model) == num_hooks(model) == 0
    assert not watched_optimizer.optimizer._optimizer_step_pre_hooks


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_reading_is_the_labs_number_at_the_same_state(precision):
    """Of two micro-batches; under bfloat16 autocast too, in the weights' own precision."""
    settings = {"every": 12}  # the last step of the second epoch, cut short, is of one batch and counts half
    model, optimizer, watcher, kept = loop(settings, rate=0.0, precision=precision)
    bare = Net(0.0)
    bare.load_state_dict(model.state_dict())
    for w, own in zip(bare.parameters(), model.parameters(), strict=True):
        optimizer.optimizer.state[w] = optimizer.optimizer.state[own]
    twin = torch.optim.AdamW(bare.parameters(), lr=1e-2)
    twin.load_state_dict(optimizer.optimizer.state_dict())
    step = events(watcher.watcher, "measurement")[-1]
    twin.param_groups[0]["lr"] = step["lr"]
    lab = Probe(bare, cross_entropy, rtol=1e-6).measure(
        twin, MicroBatches(kept["parts"][-1:], [0.5]), w=kept["weights"][-1]
    )
    assert step["step"] == 12
    assert step["ratio"] == pytest.approx(lab.ratio, abs=step["residual"])
    steps = events(watcher.watcher, "step")
    assert steps[0]["loss"] == pytest.approx(sum(kept["losses"][:2]) / 2, rel=1e-6)
    assert steps[-1]["loss"] == pytest.approx(kept["losses"][-1] / 2, rel=1e-6)


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
