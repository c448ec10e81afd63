"""The official archives and the .npz in their place: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tightrope.errors import DataError
from tightrope.problems import ARCHIVES, Cifar10, Cifar100
from tightrope.problems.archives import data_folder, load
from tightrope.problems.images import channel_moments, read_npz

from .conftest import members, record, tar_gz

RAMP = [i % 256 for i in range(1024)]


def arrays(num_images=5, num_classes=10, seed=0):
    rng = np.random.default_rng(seed)

    def part(prefix, n):
        return {
            f"{prefix}_x": rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8),
            f"{prefix}_y": rng.integers(0, num_classes, n),
        }

    return part("train", num_images) | part("test", 3)


def npz(path, **changes):
    """A sound .npz with some arrays changed; None takes one away."""
    content = arrays() | changes
    np.savez(path, **{key: value for key, value in content.items() if value is not None})
    return str(path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_red_plane_comes_first_row_by_row(name, keep):
    archive = ARCHIVES[name]
    content = members(name)
    flat = record([7] * archive.num_labels, RAMP, [100] * 1024, [200] * 1024)
    content[archive.train[0]] = flat + content[archive.train[0]]
    keep(name, content)
    x = load(ARCHIVES[name]).train_x
    assert x[0, 0, 5].tolist() == [5, 100, 200]
    assert x[0, 1, 0].tolist() == [32, 100, 200]
    assert x[0, 31, 31].tolist() == [1023 % 256, 100, 200]
    assert x.dtype == np.uint8


def test_the_class_in_cifar100_is_the_second_label(keep):
    content = members("cifar100")
    content["cifar-100-binary/test.bin"] = record([3, 88], RAMP, RAMP, RAMP)
    keep("cifar100", content)
    assert load(ARCHIVES["cifar100"]).test_y.tolist() == [88]


def test_batches_are_read_in_the_order_of_their_numbers(keep):
    content = members("cifar10")
    for number, name in enumerate(ARCHIVES["cifar10"].train):
        content[name] = record([number], RAMP, RAMP, [number] * 1024)
    keep("cifar10", dict(reversed(content.items())))
    images = load(ARCHIVES["cifar10"])
    assert images.train_y.tolist() == [0, 1, 2, 3, 4]
    assert images.train_x[:, 0, 0, 2].tolist() == [0, 1, 2, 3, 4]


def test_nothing_is_written_whatever_paths_an_archive_holds(keep, folder, tmp_path):
    keep("cifar10", {"../evil": b"x", "/tmp/tightrope-evil": b"x", "link": None, **members("cifar10")})
    before = sorted(tmp_path.rglob("*"))
    load(ARCHIVES["cifar10"])
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/tmp/tightrope-evil").exists()


@pytest.mark.parametrize(("name", "problem"), [("cifar10", Cifar10), ("cifar100", Cifar100)])
def test_an_npz_in_place_of_an_archive_gives_the_same_problem(name, problem, keep, folder, tmp_path):
    file = keep(name, members(name))
    images = load(ARCHIVES[name])
    fields = {key: getattr(images, key) for key in ("train_x", "train_y", "test_x", "test_y")}
    np.savez(tmp_path / "same.npz", **fields)
    (tmp_path / "elsewhere.tar.gz").write_bytes(file.read_bytes())
    first, *others = (
        problem(hidden=(4,), path=path, num_test_examples=2).build(0, torch.float64)
        for path in (None, str(tmp_path / "same.npz"), str(tmp_path / "elsewhere.tar.gz"))
    )
    file.unlink()
    np.savez(folder / f"{name}.npz", **fields)
    others.append(problem(hidden=(4,), num_test_examples=2).build(0, torch.float64))
    for other in others:
        assert torch.equal(first.w, other.w)
        for tensor, same in zip(first.batch + first.test_batch, other.batch + other.test_batch, strict=True):
            assert torch.equal(tensor, same)


def test_the_data_folder_is_what_the_environment_says_or_the_cache(monkeypatch):
    monkeypatch.setenv("TIGHTROPE_DATA", "/somewhere")
    assert data_folder() == Path("/somewhere")
    for value in ("", None):
        monkeypatch.setenv("TIGHTROPE_DATA", value) if value is not None else monkeypatch.delenv("TIGHTROPE_DATA")
        monkeypatch.setenv("HOME", "/home/me")
        assert data_folder() == Path("/home/me/.cache/tightrope")


def test_channel_moments_are_those_of_all_pixels():
    x = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    mean, std = channel_moments(x)
    assert np.allclose(mean, x.reshape(-1, 3).astype(float).mean(axis=0), rtol=1e-14)
    assert np.allclose(std, x.reshape(-1, 3).astype(float).std(axis=0), rtol=1e-13)


def test_stored_moments_of_pixels_or_channels_replace_those_of_the_images(tmp_path):
    everything = np.random.default_rng(2).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    mean, std = channel_moments(everything)
    scaled = everything / 255
    for stored in (
        {"pixel_mean": scaled.mean(axis=0), "pixel_std": scaled.std(axis=0)},
        {"pixel_mean": mean / 255, "pixel_std": std / 255},
    ):
        images = read_npz(Path(npz(tmp_path / "some.npz", train_x=everything[:5], **stored)), 10)
        assert np.allclose(images.mean, mean, rtol=1e-12)
        assert np.allclose(images.std, std, rtol=1e-12)


def test_standardised_images_have_their_channels_first(tmp_path):
    images = read_npz(Path(npz(tmp_path / "some.npz")), 10)
    x = images.standardised(images.train_x, torch.float64)
    expected = (images.train_x[2, 3, 4, 1] - images.mean[1]) / images.std[1]
    assert x.shape == (5, 3, 32, 32)
    assert float(x[2, 1, 3, 4]) == pytest.approx(expected, rel=1e-14)
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-13)
    assert torch.allclose(x.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-13)
    assert (images.standardised(images.train_x, torch.float32) - x).abs().max() < 1e-6


# What is refused, each in one line that says what to do


def refused(call):
    with pytest.raises(DataError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_archive_says_where_it_was_looked_for_and_how_to_get_it(folder):
    message = refused(lambda: load(ARCHIVES["cifar100"]))
    for words in (
        "cifar-100-binary.tar.gz",
        str(folder),
        "tightrope fetch cifar100",
        "TIGHTROPE_DATA",
        ".npz",
        "digits",
    ):
        assert words in message


def test_a_path_to_nothing_is_refused(tmp_path):
    assert f"no file '{tmp_path}/no.npz'" in refused(lambda: load(ARCHIVES["cifar10"], f"{tmp_path}/no.npz"))
    for path in (str(tmp_path), "", "a\0b.npz", "a\nb.npz", "~nobody-of-that-name/x.npz", "x" * 5000):
        assert "there is no file" in refused(lambda path=path: load(ARCHIVES["cifar10"], path))


@pytest.mark.parametrize("damage", [lambda raw: raw[:-100], lambda raw: raw[:-9] + b"x" + raw[-8:], lambda raw: b""])
def test_an_archive_that_is_not_the_published_one_is_refused(damage, keep):
    file = keep("cifar10", members("cifar10"))
    whole = file.stat().st_size
    file.write_bytes(damage(file.read_bytes()))
    message = refused(lambda: load(ARCHIVES["cifar10"]))
    assert f"{whole} bytes with md5 {ARCHIVES['cifar10'].md5}; got {file.stat().st_size} bytes" in message
    assert "tightrope fetch cifar10" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no tar at all", "must be a compressed tar that can be read"),
        (tar_gz(members("cifar10"))[:-500], "must be a compressed tar that can be read"),
        (
            members("cifar10") | {"cifar-10-batches-bin/test_batch.bin": None},
            "must be a compressed tar that can be read",
        ),
        (members("cifar100"), "must hold cifar-10-batches-bin/data_batch_1.bin; it does not"),
        (members("cifar10") | {"cifar-10-batches-bin/test_batch.bin": b"12"}, "records of 3073 bytes; got 2 bytes"),
        (members("cifar10") | {"cifar-10-batches-bin/test_batch.bin": b""}, "at least one image; got none"),
        (
            members("cifar10") | {"cifar-10-batches-bin/test_batch.bin": record([10], RAMP, RAMP, RAMP)},
            "test_y must be classes 0..9; got 10..10",
        ),
    ],
)
def test_an_archive_with_other_content_is_refused_even_under_the_right_md5(content, words, keep):
    keep("cifar10", content)
    assert words in refused(lambda: load(ARCHIVES["cifar10"]))


IMAGES = np.zeros((5, 32, 32, 3), np.uint8)
HALF = np.full((32, 32, 3), 0.5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test_y": None}, "it lacks test_y"),
        ({"train_x": IMAGES.astype(np.float32)}, "train_x must be uint8 (n, 32, 32, 3); got float32 (5, 32, 32, 3)"),
        ({"train_x": IMAGES.reshape(5, 3, 32, 32)}, "train_x must be uint8 (n, 32, 32, 3); got uint8 (5, 3, 32, 32)"),
        ({"train_x": np.uint8(3)}, "train_x must be uint8 (n, 32, 32, 3); got uint8 ()"),
        ({"train_x": IMAGES}, "must vary in each channel"),
        ({"train_y": np.zeros(5)}, "train_y must be 5 whole numbers, one an image; got float64 (5,)"),
        ({"train_y": np.zeros(4, int)}, "train_y must be 5 whole numbers, one an image; got int64 (4,)"),
        ({"train_y": np.array([0, 1, 2, 3, 10])}, "train_y must be classes 0..9; got 0..10"),
        ({"train_y": np.array([0, -1, 2, 3, 9])}, "train_y must be classes 0..9; got -1..9"),
        ({"train_x": IMAGES[:0], "train_y": np.zeros(0, int)}, "train_x must hold at least one image; got none"),
        ({"train_y": np.array([object()] * 5)}, "must be an .npz of plain arrays"),
        ({"pixel_mean": HALF}, "pixel_mean and pixel_std must both be floats"),
        ({"pixel_mean": 255 * HALF, "pixel_std": HALF}, "pixel_mean and pixel_std must both be floats"),
        ({"pixel_mean": HALF[..., 0], "pixel_std": HALF[..., 0]}, "got float64 (32, 32), float64 (32, 32)"),
        ({"pixel_mean": HALF[0, 0], "pixel_std": 0 * HALF[0, 0]}, "must vary in each channel"),
        ({"pixel_mean": HALF[0, 0], "pixel_std": np.array([0.5, 0.5, np.nan])}, "must both be floats in [0, 1]"),
    ],
)
def test_an_npz_that_does_not_hold_what_it_must_is_refused(changes, words, tmp_path):
    path = npz(tmp_path / "bad.npz", **changes)
    message = refused(lambda: load(ARCHIVES["cifar10"], path))
    assert words in message
    assert path in message


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_damaged_npz_is_one_error_and_no_other(data, tmp_path):
    path = tmp_path / "damaged.npz"
    npz(path)
    raw = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=8)):
        raw[at] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    message = ""
    try:
        read_npz(path, 10)
    except DataError as error:
        message = str(error)
    assert "\n" not in message


def test_other_files_called_npz_are_refused(tmp_path):
    path = tmp_path / "other.npz"
    for content in (b"", b"PK", b"text", tar_gz(members("cifar10"))):
        path.write_bytes(content)
        assert "must be an .npz of plain arrays" in refused(lambda: read_npz(path, 10))
    with path.open("wb") as file:
        np.save(file, IMAGES)
    assert "must be an .npz of plain arrays" in refused(lambda: read_npz(path, 10))
