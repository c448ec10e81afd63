"""Translation: two text files as numbers, a loss that padding does not touch, and files that will not do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import tightrope as tr
from tightrope.curvature import Hessian
from tightrope.errors import ConfigError, DataError
from tightrope.optim import RECIPES
from tightrope.problems import Translation
from tightrope.problems.corpus import Vocabulary, read_pairs
from tightrope.problems.losses import PAD
from tightrope.training import MeasureConfig, RunConfig

FOLDERS = (os.environ.get("TIGHTROPE_DATA", ""), Path(__file__).parents[3] / "shared" / "data")
FOUND = [path for path in (Path(folder) / "multi30k" for folder in FOLDERS) if path.is_dir()]
real_corpus = pytest.mark.skipif(not FOUND, reason="multi30k is neither in ../shared/data nor in TIGHTROPE_DATA")

ENGLISH = ["a dog runs", "a cat", "the dog sleeps now", "a dog", "", "one two three four five six"]
GERMAN = ["ein hund läuft", "eine katze", "der hund schläft jetzt hier", "ein hund", "nichts", "sechs"]
SMALL = {"layers": 1, "width": 8, "heads": 2, "max_length": 5}


def real_paths(part):
    return {"source": str(FOUND[0] / f"{part}.lc.norm.tok.en"), "target": str(FOUND[0] / f"{part}.lc.norm.tok.de")}


@pytest.fixture
def corpus(tmp_path):
    """Write both sides and give their paths as settings."""

    def write(source=ENGLISH, target=GERMAN):
        for name, lines in (("en", source), ("de", target)):
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return {"source": str(tmp_path / "en"), "target": str(tmp_path / "de")}

    return write


def test_pairs_with_no_or_too_many_words_are_left_out(corpus):
    paths = corpus()
    assert [" ".join(source) for source, _ in read_pairs(**paths, max_length=5)] == ENGLISH[:4]
    assert [" ".join(target) for _, target in read_pairs(**paths, max_length=3)] == [GERMAN[i] for i in (0, 1, 3)]


def test_a_vocabulary_is_the_most_frequent_words_in_the_order_they_are_met():
    sentences = [["b", "a", "c"], ["a", "d"], ["d", "a"]]
    vocabulary = Vocabulary(sentences, 3)
    assert vocabulary.numbers == {"a": 0, "d": 1, "b": 2}
    assert vocabulary.encoded([["a", "c", "b"], ["d"]]).tolist() == [[0, 3, 2], [1, PAD, PAD]]
    assert vocabulary.encoded([["a"], ["d", "x"]], last=9).tolist() == [[0, 9, PAD], [1, 3, 9]]


def test_a_batch_holds_the_sentences_as_numbers_and_targets_end(corpus):
    problem = Translation(**corpus(), **SMALL, vocabulary=4).build(0, torch.float64)
    source, target = problem.batch
    assert source.tolist() == [[0, 1, 2, PAD], [0, 3, PAD, PAD], [4, 1, 4, 4], [0, 1, PAD, PAD]]
    assert target.tolist() == [
        [1, 0, 2, 5, PAD, PAD],
        [3, 4, 5, PAD, PAD, PAD],
        [4, 0, 4, 4, 4, 5],
        [1, 0, 5, PAD, PAD, PAD],
    ]
    assert problem.model.classifier.out_features == 6


def test_the_loss_is_the_mean_over_words_and_adds_up_over_parts_of_a_batch(corpus):
    problem = Translation(**corpus(), **SMALL).build(0, torch.float64)
    losses = []
    for source, target in zip(*problem.batch, strict=True):
        source, target = source[source != PAD], target[target != PAD]
        logits = problem.model(source[None], target[None])[0].detach()
        losses += (-logits.log_softmax(1)[range(len(target)), target]).tolist()
    assert len(losses) == 16
    assert problem.loss_fn(problem.model, problem.batch).item() == pytest.approx(sum(losses) / 16, rel=1e-12)
    whole = Hessian(problem.model, problem.loss_fn, problem.batch)
    in_parts = Hessian(problem.model, problem.loss_fn, problem.batch, chunk_size=3)
    v = torch.randn(whole.size, dtype=whole.dtype, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(in_parts @ v, whole @ v, rtol=1e-9, atol=1e-12)


def test_the_last_sentences_are_held_out_and_their_words_are_not_learnt(corpus):
    settings = {**corpus(), **SMALL}
    problem = Translation(**settings, num_test_examples=2).build(0, torch.float64)
    source, target = problem.test_batch
    assert problem.num_examples == 2
    assert source.tolist() == [[4, 1, 4, 4], [0, 1, PAD, PAD]]  # a dog runs cat | unknown
    assert problem.test()["num_examples"] == 2
    wrong = total = 0
    for row, words in zip(source, target, strict=True):
        words = words[words != PAD]
        wrong += int((problem.model(row[None], words[None])[0].argmax(1) != words).sum())
        total += len(words)
    assert problem.test()["error"] == wrong / total
    first = Translation(**settings, num_examples=1, num_test_examples=2).build(0, torch.float64)
    assert first.num_examples == 1
    assert first.test_batch[0].shape[0] == 2
    for many in ({"num_examples": 3, "num_test_examples": 2}, {"num_examples": 5}, {"num_test_examples": 4}):
        with pytest.raises(ConfigError, match="must be between"):
            Translation(**settings, **many).build(0, torch.float32)


def test_a_run_of_translation_learns_and_is_measured(corpus, tmp_path):
    config = RunConfig(
        problem=Translation(**corpus(), **SMALL),
        method=RECIPES["adam"](lr=1e-2),
        num_steps=30,
        measure=MeasureConfig(every=15),
    )
    record = tr.run(config, out=tmp_path / "run")
    assert record.steps["loss"][-1] < 0.2 * record.steps["loss"][0]
    assert set(record.measurements["status"].tolist()) == {"converged"}


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (["a"], ["b", "c"], "equally many; "),
        ([], [], "it is empty"),
        (["a b c d e f"], ["b"], "must hold a pair of sentences of 1 to 5 words; none of 1 is one"),
    ],
)
def test_a_corpus_that_is_none_is_refused_in_a_line(corpus, source, target, words):
    with pytest.raises(DataError) as error:
        Translation(**corpus(source, target), **SMALL).build(0, torch.float32)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named_with_what_it_should_be(corpus, tmp_path):
    paths = corpus()
    (tmp_path / "de").unlink()
    with pytest.raises(DataError, match=r"problem.target: must be a text file.*no file '.*de'.*statmt.org"):
        Translation(**paths).build(0, torch.float32)
    (tmp_path / "de").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match="must be readable text in UTF-8"):
        Translation(**paths).build(0, torch.float32)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([], "Object missing required field `source`"),
        (["problem.source=a", "problem.target=b"], "there is no file 'a'"),
        (["problem.source=a", "problem.target=b", "problem.heads=3"], "a multiple of the 3 heads; got 512"),
    ],
)
def test_a_run_without_its_corpus_is_one_line(settings, words, tightrope):
    sets = [part for setting in ["problem=translation", *settings] for part in ("--set", setting)]
    code, out, err = tightrope("run", "digits-adam", *sets)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert words in err


@real_corpus
def test_real_sentences_become_numbers_and_words_again():
    paths = real_paths("val")
    problem = Translation(**paths, layers=1, width=8, heads=2, num_test_examples=14).build(0, torch.float32)
    assert problem.num_examples == 1000
    pairs = read_pairs(**paths, max_length=256)
    words = list(Vocabulary((target for _, target in pairs[:1000]), 32_000).numbers)
    for number in (0, 1, 999):
        row = problem.batch[1][number]
        said = [words[token] for token in row[row != PAD][:-1].tolist()]
        assert said == Path(paths["target"]).read_text(encoding="utf-8").split("\n")[number].split()


@pytest.mark.slow
@real_corpus
def test_the_transformer_learns_real_sentences(tmp_path):
    paths = real_paths("train")
    problem = Translation(
        **paths, layers=2, width=32, heads=4, vocabulary=500, num_examples=256, num_test_examples=100, max_length=20
    )
    config = RunConfig(
        problem=problem, method=RECIPES["adam"](lr=3e-3), num_steps=100, batch_size=64, measure=MeasureConfig(every=50)
    )
    record = tr.run(config, out=tmp_path / "run")
    assert record.steps["loss"][-10:].mean() < 0.7 * record.steps["loss"][0]
    assert record.test["error"] < 0.8
    assert set(record.measurements["status"].tolist()) == {"converged"}
