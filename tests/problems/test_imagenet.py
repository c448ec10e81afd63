"""ImageNet: images that stay in their files, standardised when a batch needs them, and files that will not do."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tightrope as tr
from tightrope.errors import ConfigError, DataError
from tightrope.optim import RECIPES
from tightrope.problems import ImageNet, bottleneck_residual
from tightrope.training import MeasureConfig, RunConfig

SMALL = {"blocks": (1, 1), "width": 4, "num_classes": 5}


@pytest.fixture
def files(tmp_path):
    """A folder with ten training and four held-out images of 32x32."""
    rng, folder = np.random.default_rng(0), tmp_path / "images"
    folder.mkdir()
    for part, count in (("train", 10), ("test", 4)):
        np.save(folder / f"{part}_x.npy", rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))
        np.save(folder / f"{part}_y.npy", rng.integers(0, 5, count))
    return folder


def is_mapped(tensor, file):
    """Whether a tensor's bytes are those of the file, by changing one there."""
    before = tensor[0, 0, 0, 0].item()
    with file.open("r+b") as opened:
        opened.seek(-tensor.numel(), 2)
        opened.write(bytes([255 - before]))
    return tensor[0, 0, 0, 0].item() == 255 - before


def test_the_network_is_resnet_50_unless_said_otherwise(files):
    problem = ImageNet(path=str(files)).build(0, torch.float32)
    assert problem.w.numel() == 25_557_032
    assert problem.model[-1].out_features == 1000


def test_images_stay_in_their_file_and_classes_are_read(files):
    problem = ImageNet(path=str(files), **SMALL).build(0, torch.float64)
    images, labels = problem.batch
    assert (images.dtype, images.shape) == (torch.uint8, (10, 32, 32, 3))
    assert labels.tolist() == np.load(files / "train_y.npy").tolist()
    assert is_mapped(images, files / "train_x.npy")
    assert not is_mapped(problem.rows(torch.tensor([0, 1]))[0], files / "train_x.npy")


def test_a_batch_is_standardised_by_channel_inside_the_model(files):
    problem = ImageNet(path=str(files), **SMALL).build(0, torch.float64)
    rows = problem.rows(torch.tensor([7, 2]))
    x = np.load(files / "train_x.npy")[[7, 2]] / 255
    x = (x - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    x = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    assert torch.allclose(problem.model[0](rows[0]), x, rtol=1e-6)
    network = bottleneck_residual(5, torch.Generator().manual_seed(0), (1, 1), 4).double()
    expected = torch.nn.functional.cross_entropy(network(problem.model[0](rows[0])), rows[1])
    assert torch.equal(problem.loss_fn(problem.model, rows), expected)


def test_its_data_are_known_by_every_byte(files):
    config = ImageNet(path=str(files), num_test_examples=3, **SMALL)
    before = config.build(0, torch.float32).digest()
    assert config.build(1, torch.float32).digest() == before
    images = np.load(files / "train_x.npy")
    images[9, 31, 31, 2] ^= 1
    np.save(files / "train_x.npy", images)
    assert config.build(0, torch.float32).digest() != before
    fewer = ImageNet(path=str(files), num_test_examples=3, num_examples=9, **SMALL)
    with_other_last_image = fewer.build(0, torch.float32).digest()
    images[9, 31, 31, 2] ^= 1
    np.save(files / "train_x.npy", images)
    assert fewer.build(0, torch.float32).digest() == with_other_last_image


def test_a_minibatch_run_is_measured_and_looks_at_held_out_images(files, tmp_path):
    config = RunConfig(
        problem=ImageNet(path=str(files), num_test_examples=4, **SMALL),
        method=RECIPES["adam"](lr=1e-3),
        num_steps=6,
        batch_size=5,
        measure=MeasureConfig(every=3, num_examples=6),
    )
    record = tr.run(config, out=tmp_path / "run")
    assert np.isfinite(record.measurements["ratio"]).all()
    assert record.test["num_examples"] == 4
    assert record.test["error"] in (0, 0.25, 0.5, 0.75, 1)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train_x", np.zeros((10, 32, 32), np.uint8), "must be uint8 (n, h, w, 3); got uint8 (10, 32, 32)"),
        ("train_x", np.zeros((10, 32, 32, 3)), "must be uint8 (n, h, w, 3); got float64"),
        ("train_y", np.zeros(9, int), "must be 10 whole numbers, one an image; got int64 (9,)"),
        ("train_y", np.zeros(10), "must be 10 whole numbers, one an image; got float64 (10,)"),
        ("train_x", b"text", "must be one plain array as np.save writes it"),
        ("train_x", b"", "must be one plain array as np.save writes it"),
        ("train_x", None, "there is no such file. Get ImageNet from"),
        ("test_y", None, "test_y.npy: must hold ImageNet's images or classes"),
    ],
)
def test_files_that_will_not_do_are_refused_in_a_line(files, name, content, words):
    file = files / f"{name}.npy"
    if content is None:
        file.unlink()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.save(file, content)
    with pytest.raises(DataError) as error:
        ImageNet(path=str(files), num_test_examples=1, **SMALL).build(0, torch.float32)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_without_a_path_the_data_folder_is_looked_in(folder):
    with pytest.raises(DataError, match=r"data/imagenet/train_x.npy: must hold"):
        ImageNet().build(0, torch.float32)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_examples": 11}, "problem.num_examples: must be at most the 10 there are; got 11"),
        ({"num_test_examples": 5}, "problem.num_test_examples: must be at most the 4 there are; got 5"),
        ({"num_classes": 2}, "labels must be in 0..1"),
        ({"blocks": ()}, "at least one group"),
        ({"blocks": (1, 0)}, "problem.blocks: must be a whole number, at least 1; got 0"),
        ({"width": 0}, "problem.width: must be a whole number, at least 1; got 0"),
        ({"num_examples": 0}, "problem.num_examples: must be a whole number, at least 1; got 0"),
        ({"num_test_examples": -1}, "problem.num_test_examples: must be a whole number, at least 0; got -1"),
        ({"loss": "mae"}, "Did you mean 'mse'?"),
    ],
)
def test_a_setting_out_of_range_is_refused(files, settings, words):
    with pytest.raises(ConfigError) as error:
        ImageNet(path=str(files), **{**SMALL, **settings}).build(0, torch.float32)
    assert words in str(error.value)
