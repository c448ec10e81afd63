"""`Watch` in Lightning's Trainer: what it finds, and that it leaves no trace."""

from __future__ import annotations

import math
import signal
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import tightrope as tr
from tightrope.stability import Probe

from .found import assert_equal, events, num_hooks, state_of

pytest.importorskip("lightning", reason="Lightning is not installed; `make slow` installs it")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations between the packages that Lightning brings
    import lightning.pytorch as pl
    import torchmetrics
    from lightning.pytorch.loggers import CSVLogger

    from tightrope.integrations.lightning import Watch

pytestmark = [
    # Lightning 2.6 calls what torch 2.13 has given another name.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning"),
    # Its advice, which small runs have no use for.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Work:
    """Dropout and BatchNorm; logs, counts a metric, collects its outputs, and writes to its logger by hand."""

    def build(self, rate=0.3):
        self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(rate), nn.Linear(16, 3))
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(num_classes=3)
        self.outputs, self.num_calls = [], 0

    def training_step(self, batch, batch_idx):
        logits = self.net(batch[0])
        loss = nn.functional.cross_entropy(logits, batch[1])
        self.accuracy(logits, batch[1])
        self.outputs.append(loss.item())
        self.num_calls += 1
        self.log("train_loss", loss)
        self.log_dict({"accuracy": self.accuracy}, on_step=False, on_epoch=True)
        if self.logger:
            self.logger.log_metrics({"by_hand": loss.item()}, step=self.num_calls)
        return {"loss": loss, "logits": logits.detach()}

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=1000)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Net(Work, pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.build()


class Validated(Net):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", cross_entropy(self, batch))


class Steady(Net):
    """No dropout, one learning rate."""

    def __init__(self):
        super().__init__()
        self.build(rate=0.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Manual(Net):
    """Two optimizers, stepped by hand; the second for the last layer."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(cross_entropy(self, batch))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.net[0].parameters(), lr=0.1), torch.optim.Adam(self.net[4].parameters())]


class Broken(Net):
    """Its fourth loss overflows."""

    def training_step(self, batch, batch_idx):
        loss = cross_entropy(self, batch)
        self.num_calls += 1
        return loss * (math.inf if self.num_calls == 4 else 1)


def cross_entropy(module, batch):
    return nn.functional.cross_entropy(module.net(batch[0]), batch[1])


def raises(error):
    def loss_fn(module, batch):
        raise error

    return loss_fn


def data(num=84, size=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(num, 6, generator=generator), torch.randint(3, (num,), generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=size, shuffle=seed == 1)


def fitted(*callbacks, kind=Net, framework=pl, val=None, **settings):
    torch.manual_seed(0)
    module = kind()
    settings = {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "log_every_n_steps": 1, "logger": False} | settings
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = framework.Trainer(**settings, **quiet, callbacks=list(callbacks))
    trainer.fit(module, data(), val)
    return trainer, module


def left_behind(folder, *callbacks):
    """Of a fit with everything: accumulation that the epoch's end cuts short, clipping, a schedule, validation."""
    logger, both = CSVLogger(folder, name="", version=""), {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
    trainer, module = fitted(*callbacks, kind=Validated, logger=logger, val=data(16, seed=2), max_epochs=2, **both)
    metrics = {name: value.double() for name, value in trainer.callback_metrics.items()}
    own = {"outputs": torch.tensor(module.outputs), "calls": torch.tensor(module.num_calls)}
    return state_of(module, trainer.optimizers[0]) | own | metrics, Path(folder, "metrics.csv").read_text()


def test_a_watched_fit_is_bit_for_bit_the_unwatched_one():
    alone, its_log = left_behind("alone")
    watch = Watch(every=2)
    watched, log = left_behind("watched", watch)
    assert_equal(watched, alone)
    assert log == its_log
    assert "by_hand" in log
    readings = events(watch.watcher, "measurement")
    assert len(readings) == 6
    assert all(math.isfinite(reading["ratio"]) for reading in readings)
    assert str(watch.watcher.run_dir) == "watched/tightrope"


def test_the_losses_and_gradients_told_are_those_of_the_fit():
    """Lightning takes the gradient inside the optimizer's step."""
    norms = []

    class Ear(pl.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            norms.append(float(torch.cat([w.grad.flatten() for w in module.parameters()]).norm()))

    watch = Watch(every=1)
    _, module = fitted(watch, Ear())
    steps = events(watch.watcher, "step")
    assert [step["grad_norm"] for step in steps] == pytest.approx(norms, rel=1e-5)
    assert [step["loss"] for step in steps] == pytest.approx(module.outputs, rel=1e-6)


@pytest.mark.parametrize("loss_fn", [None, cross_entropy])
def test_a_reading_is_the_labs_number_at_the_same_state(loss_fn):
    """Of two micro-batches, at the weights before the step."""
    parts, weights = [], []

    class Ear(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            parts.append(batch)
            weights.append(torch.cat([w.detach().flatten() for w in module.parameters()]))

    watch = Watch(loss_fn, every=5)
    trainer, module = fitted(watch, Ear(), kind=Steady, max_steps=5, accumulate_grad_batches=2)
    module.train()
    whole = tr.curvature.MicroBatches(parts[-2:])
    lab = Probe(module, cross_entropy, rtol=1e-6).measure(trainer.optimizers[0], whole, w=weights[-1])
    [reading] = events(watch.watcher, "measurement")
    assert reading["step"] == 5
    assert reading["ratio"] == pytest.approx(lab.ratio, abs=reading["residual"])
    assert reading["threshold"] == pytest.approx(lab.threshold)


def test_the_limit_that_the_trainer_clips_at_is_known():
    for algorithm, is_told in (("norm", True), (None, True), ("value", False)):
        watch = Watch(every=5)
        fitted(watch, gradient_clip_val=0.01, gradient_clip_algorithm=algorithm)
        assert ("clip_norm = 0.01" in (watch.watcher.run_dir / "config.toml").read_text()) == is_told


def test_a_loss_that_raises_does_not_reach_the_trainer(capsys):
    trainer, _ = fitted(Watch(raises(KeyError("no such thing")), every=1))
    assert trainer.state.finished
    assert "no such thing" in capsys.readouterr().err


def test_an_interrupt_passes_and_ends_the_watching():
    watch = Watch(raises(KeyboardInterrupt()), every=1)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):  # Lightning's own answer to Ctrl-C
        fitted(watch)
    signal.signal(signal.SIGINT, before)
    assert not watch.watcher.is_on


def test_after_the_fit_nothing_is_left_on_the_optimizer_and_the_module():
    watch = Watch(every=1)
    trainer, module = fitted(watch)
    [optimizer] = trainer.optimizers
    assert not watch.watcher.is_on
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not {"log", "log_dict"} & set(vars(module))
    assert num_hooks(module) == 0


def test_of_several_optimizers_the_chosen_one_is_watched(capsys):
    watch = Watch(cross_entropy, every=3, optimizer=1)
    fitted(watch, kind=Manual)
    assert "Adam, edge at 38/lr" in capsys.readouterr().err
    assert len(events(watch.watcher, "measurement")) == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "Give Watch a loss_fn(module, batch)."),
        ({"loss_fn": cross_entropy, "optimizer": 2}, "there must be an optimizer of number 2"),
        ({"loss_fn": cross_entropy, "optimizer": "last"}, "must be a whole number"),
        ({"loss_fn": cross_entropy, "budget": 3}, "watch: budget must be a share"),
    ],
)
def test_what_cannot_be_watched_is_said_in_one_line_and_the_fit_goes_on(settings, words, capsys):
    trainer, _ = fitted(Watch(**settings), kind=Manual)
    assert trainer.state.finished
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tightrope:")]
    assert words in line
    assert "goes on unwatched" in line


def test_a_loss_that_is_not_finite_is_named():
    watch = Watch(every=100)
    fitted(watch, kind=Broken)
    found = {event["what"]: event["step"] for event in events(watch.watcher, "not_finite")}
    assert found["loss"] == 4


def test_under_autocast_the_weights_own_precision_is_measured():
    watch = Watch(every=3)
    fitted(watch, precision="bf16-mixed")
    assert len(events(watch.watcher, "measurement")) == 3


def test_a_trainer_of_pytorch_lightning_takes_it_too():
    other = pytest.importorskip("pytorch_lightning", reason="pytorch_lightning is not installed")

    class Plain(Work, other.LightningModule):
        def __init__(self):
            super().__init__()
            self.build()

    watch = Watch(every=3)
    fitted(watch, kind=Plain, framework=other)
    assert len(events(watch.watcher, "measurement")) == 3
