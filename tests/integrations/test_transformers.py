"""`Watch` in Hugging Face's Trainer: what it finds, and that it leaves no trace."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from tightrope.curvature import MicroBatches
from tightrope.stability import Probe

from .found import assert_equal, events, num_hooks, state_of

REASON = "Hugging Face's {} is not installed; `make slow` installs it"
transformers = pytest.importorskip("transformers", reason=REASON.format("transformers"))
pytest.importorskip("accelerate", reason=REASON.format("accelerate"))

from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments  # noqa: E402

from tightrope.integrations.transformers import Watch  # noqa: E402

TIMES = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "eval_runtime")
TIMES += ("eval_samples_per_second", "eval_steps_per_second")


# peft 0.21 asks transformers 5.23 under a name that this has given up.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def language_model(dropout=0.1):
    config = GPT2Config(
        n_layer=2,
        n_embd=32,
        n_head=2,
        vocab_size=64,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
    )
    return GPT2LMHeadModel(config)


def texts(num=48, seed=0):
    """Token sequences of which very different parts are to be predicted."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(64, (num, 16), generator=generator)
    labels = tokens.clone()
    for row in labels:
        row[: int(torch.randint(1, 15, (1,), generator=generator))] = -100
    return [{"input_ids": x, "labels": y} for x, y in zip(tokens, labels, strict=True)]


def trained(*callbacks, model=None, kind=Trainer, folder="out", extra=None, resume=None, **settings):
    transformers.set_seed(0)
    model = model() if model else language_model()
    settings = {
        "max_steps": 8,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "logging_steps": 2,
        "save_strategy": "no",
    } | settings
    args = TrainingArguments(folder, report_to="none", use_cpu=True, disable_tqdm=True, **settings)
    trainer = kind(
        model, args, train_dataset=texts(), eval_dataset=texts(8, 1), callbacks=list(callbacks), **(extra or {})
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def left_behind(*callbacks, **settings):
    """What a training leaves: its state, and all it logged but times."""
    trainer = trained(*callbacks, **settings)
    log = [{key: x for key, x in line.items() if key not in TIMES} for line in trainer.state.log_history]
    return state_of(trainer.model, trainer.optimizer.optimizer), log


def with_adapters():
    peft = pytest.importorskip("peft", reason=REASON.format("peft"))
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], lora_dropout=0.1, fan_in_fan_out=True)
    return peft.get_peft_model(language_model(), config)


EVERYTHING = {"max_grad_norm": 0.3, "lr_scheduler_type": "cosine", "warmup_steps": 2, "eval_strategy": "steps"}


@pytest.mark.parametrize("model", [language_model, with_adapters])
def test_a_watched_training_is_bit_for_bit_the_unwatched_one(model):
    settings = {"model": model, "max_steps": 10, "eval_steps": 3, "num_train_epochs": 2, **EVERYTHING}
    alone, its_log = left_behind(**settings)
    watch = Watch(every=2)
    watched, log = left_behind(watch, **settings)
    assert_equal(watched, alone)
    assert log == its_log
    assert any("eval_loss" in line for line in log)
    readings = events(watch.watcher, "measurement")
    assert len(readings) == 5
    assert all(math.isfinite(reading["ratio"]) for reading in readings)
    assert str(watch.watcher.run_dir) == "out/tightrope"
    assert num_hooks(trained(watch, model=model, max_steps=2).model) == num_hooks(model())


class Ear(TrainerCallback):
    """Keeps the weights before each step, in the optimizer's order, and the norm of its gradient."""

    def __init__(self):
        self.weights, self.norms = [], []

    def on_pre_optimizer_step(self, args, state, control, optimizer, **rest):
        moved = [w for group in optimizer.param_groups for w in group["params"]]
        self.weights.append(torch.cat([w.detach().flatten() for w in moved]))
        self.norms.append(float(torch.cat([w.grad.flatten() for w in moved]).norm()))


class Hearing(Trainer):
    """Tells what it trains on."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        Hearing.heard.append(dict(inputs))
        loss = super().training_step(model, inputs, num_items_in_batch)
        Hearing.losses.append(float(loss))
        return loss


def test_a_reading_is_the_labs_number_of_the_loss_that_is_trained_on():
    """Averaged over the tokens of both micro-batches, which differ in how many they predict."""
    Hearing.heard, Hearing.losses = [], []
    watch, ear = Watch(every=4), Ear()
    trainer = trained(
        watch,
        ear,
        kind=Hearing,
        model=lambda: language_model(0.0),
        max_steps=4,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        optim="sgd",
        per_device_train_batch_size=2,
    )
    parts = Hearing.heard[-2:]
    counts = [int((part["labels"][:, 1:] != -100).sum()) for part in parts]
    assert abs(counts[0] - counts[1]) > 5

    def own(model, batch):
        return model(**batch).loss

    weights = [count / sum(counts) for count in counts]
    trainer.model.train()
    lab = Probe(trainer.model, own, rtol=1e-6).measure(
        trainer.optimizer.optimizer, MicroBatches(parts, weights), w=ear.weights[-1]
    )
    plain = Probe(trainer.model, own, rtol=1e-6).measure(
        trainer.optimizer.optimizer, MicroBatches(parts), w=ear.weights[-1]
    )
    [reading] = events(watch.watcher, "measurement")
    assert reading["ratio"] == pytest.approx(lab.ratio, abs=reading["residual"])
    assert abs(plain.loss - lab.loss) > 1e-3
    assert reading["loss"] == pytest.approx(lab.loss, rel=1e-5)
    steps = events(watch.watcher, "step")
    assert [step["grad_norm"] for step in steps] == pytest.approx(ear.norms, rel=1e-5)
    pairs = zip(Hearing.losses[::2], Hearing.losses[1::2], strict=True)
    assert [step["loss"] for step in steps] == pytest.approx([sum(pair) for pair in pairs], rel=1e-5)


def test_a_part_of_the_examples_is_averaged_over_its_own_tokens():
    """A probe set gathered from several steps: the loss of all its tokens, each counted once."""
    Hearing.heard, Hearing.losses = [], []
    watch = Watch(every=4, probe=16)
    trainer = trained(watch, kind=Hearing, model=lambda: language_model(0.0), learning_rate=0.0, max_steps=4)
    counts = [int((part["labels"][:, 1:] != -100).sum()) for part in Hearing.heard[:4]]
    with torch.no_grad():
        losses = [float(trainer.model(**part).loss) for part in Hearing.heard[:4]]
    steps = [(0, 1), (2, 3)]  # equal numbers of examples: the mean of their losses
    wanted = sum(sum(counts[i] * losses[i] for i in step) / sum(counts[i] for i in step) for step in steps) / 2
    [reading] = events(watch.watcher, "measurement")
    assert reading["loss"] == pytest.approx(wanted, rel=1e-5)


def test_evaluation_between_steps_is_not_taken_for_training():
    watch = Watch(every=1)
    trained(watch, eval_strategy="steps", eval_steps=1, max_steps=3, per_device_eval_batch_size=3)
    assert len(events(watch.watcher, "measurement")) == 3
    assert not events(watch.watcher, "error")


class Overflowing(nn.Module):
    """Returns a tuple; its fifth loss overflows."""

    def __init__(self):
        super().__init__()
        self.embed, self.last = nn.Embedding(64, 8), nn.Linear(8, 64)
        self.register_buffer("num_calls", torch.zeros(()))

    def forward(self, input_ids, labels=None):
        logits = self.last(self.embed(input_ids))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        self.num_calls += self.training
        return loss * (math.inf if self.training and self.num_calls == 5 else 1.0), logits


def test_the_first_loss_that_is_not_finite_is_named_though_trainer_leaves_it_out_of_its_log(capsys):
    watch = Watch(every=100)
    trainer = trained(watch, model=Overflowing)
    assert trainer.args.logging_nan_inf_filter
    found = {event["what"]: event for event in events(watch.watcher, "not_finite")}
    assert found["loss"]["step"] == 3
    assert "The loss is not finite for the first time at step 3" in capsys.readouterr().err
    assert math.isfinite(trainer.state.log_history[1]["loss"])


def test_the_limit_that_the_trainer_clips_at_is_known():
    for limit in (0.25, 0.0):
        watch = Watch(every=10)
        trained(watch, max_grad_norm=limit, max_steps=2)
        assert ("clip_norm = 0.25" in (watch.watcher.run_dir / "config.toml").read_text()) == (limit > 0)


def test_a_loss_that_raises_does_not_reach_the_trainer(capsys):
    def broken(model, batch):
        raise KeyError("no such thing")

    trainer = trained(Watch(broken, every=1))
    assert trainer.state.global_step == 8
    assert "no such thing" in capsys.readouterr().err


def test_an_interrupt_passes_and_close_takes_the_hooks_away():
    def interrupted(model, batch):
        raise KeyboardInterrupt

    models = []
    watch = Watch(interrupted, every=1)
    with pytest.raises(KeyboardInterrupt):
        trained(watch, model=lambda: models.append(language_model()) or models[0])
    watch.close()
    assert not watch.watcher.is_on
    assert num_hooks(models[0]) == num_hooks(language_model())


def smoothed(model, batch):
    logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), label_smoothing=0.1)


def of_its_own(outputs, labels, num_items_in_batch=None):
    total = nn.functional.cross_entropy(
        outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum", label_smoothing=0.1
    )
    return total / num_items_in_batch


class Doubling(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return 2 * model(**inputs).loss


class Twice(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return model(**inputs).loss + model(**inputs).loss


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"label_smoothing_factor": 0.1}, "with label smoothing Trainer does"),
        ({"extra": {"compute_loss_func": of_its_own}}, "the model must return the loss it is trained on"),
        ({"kind": Doubling}, "the model's own loss must be the one trained on"),
        ({"kind": Twice}, "Trainer must call the model once a batch; it does so 2 times"),
    ],
)
def test_a_loss_that_is_not_the_models_own_is_said_and_the_training_goes_on(settings, words, capsys):
    trainer = trained(Watch(every=3), **settings)
    assert trainer.state.global_step == 8
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tightrope:")]
    assert words in said[-1]
    assert said[-1].endswith("The run goes on unwatched.")
    assert num_hooks(trainer.model) == num_hooks(language_model())


@pytest.mark.parametrize("settings", [{"label_smoothing_factor": 0.1}, {"extra": {"compute_loss_func": of_its_own}}])
def test_such_a_loss_is_watched_with_a_loss_fn_and_a_probe(settings):
    probe = {key: torch.stack([each[key] for each in texts(8)]) for key in ("input_ids", "labels")}
    watch = Watch(smoothed, probe=probe, every=4)
    trained(watch, **settings)
    assert len(events(watch.watcher, "measurement")) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"bf16": True},
        {"activation_checkpointing": True},
        pytest.param(
            {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["autocast", "checkpointing", "reentrant"],
)
def test_it_reads_under(settings):
    ratios = []
    for each in ({}, settings):
        watch = Watch(every=2)
        trained(watch, model=lambda: language_model(0.0), max_steps=2, learning_rate=1e-3, max_grad_norm=0.0, **each)
        ratios += [reading["ratio"] for reading in events(watch.watcher, "measurement")]
    assert ratios[1] == pytest.approx(ratios[0], rel=0.05)


def test_a_training_taken_up_again_is_watched_into_a_directory_of_its_own():
    watch = Watch(every=2)
    trained(watch, max_steps=4, save_strategy="steps", save_steps=4)
    saved = json.loads(Path("out/checkpoint-4/trainer_state.json").read_text())
    assert "Watch" not in saved.get("stateful_callbacks", {})
    again = Watch(every=2)
    trained(again, max_steps=8, resume="out/checkpoint-4")
    assert str(again.watcher.run_dir) == "out/tightrope-2"
    assert len(events(again.watcher, "measurement")) == 2


def test_switched_off_it_sets_no_hook(monkeypatch):
    monkeypatch.setenv("TIGHTROPE", "0")
    watch = Watch()
    trained(watch, max_steps=2)
    assert not Path("out/tightrope").exists()
