"""Tiny archives in the published binary layout, a data folder of one's own, and the commands."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from tightrope.cli import main
from tightrope.problems import ARCHIVES


def record(labels, red, green, blue):
    """One record: its labels, then three planes of 1,024 bytes."""
    return bytes(labels) + bytes(red) + bytes(green) + bytes(blue)


def records(rng, num_images, num_labels, num_classes):
    """Random images in the binary layout; the class is the last label."""
    labels = rng.integers(0, 10 if num_classes == 10 else 20, (num_images, num_labels))
    labels[:, -1] = rng.integers(0, num_classes, num_images)
    pixels = rng.integers(0, 256, (num_images, 3072))
    return np.concatenate([labels, pixels], axis=1).astype(np.uint8).tobytes()


def members(name, num_images=4, seed=0):
    """What the archive of that name holds, each member with so many images, and a text beside them."""
    archive, rng = ARCHIVES[name], np.random.default_rng(seed)
    folder = archive.train[0].split("/")[0]
    parts = {
        part: records(rng, num_images, archive.num_labels, archive.num_classes)
        for part in (*archive.train, *archive.test)
    }
    return {f"{folder}/readme.html": b"<html>", **parts}


def tar_gz(content):
    """A compressed tar of named bytes; None stands for a link out of it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, part in content.items():
            info = tarfile.TarInfo(name)
            if part is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                info.size = len(part)
            tar.addfile(info, io.BytesIO(part or b""))
    return file.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty data folder."""
    monkeypatch.setenv("TIGHTROPE_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def publish(monkeypatch):
    """Make some bytes the published archive of a name, at an address if one is given."""

    def declare(name, content, url=None):
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        archive = replace(ARCHIVES[name], md5=md5, num_bytes=len(content))
        archive = archive if url is None else replace(archive, url=url)
        monkeypatch.setitem(ARCHIVES, name, archive)
        return archive

    return declare


@pytest.fixture
def keep(folder, publish):
    """Publish an archive with this content and put it into the data folder."""

    def put(name, content):
        raw = content if isinstance(content, bytes) else tar_gz(content)
        archive = publish(name, raw)
        (folder / archive.file).write_bytes(raw)
        return folder / archive.file

    return put


@pytest.fixture
def tightrope(tmp_path, monkeypatch, capsys):
    """Run a command in an empty directory; returns its exit code, output and errors."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return end.value.code, printed.out, printed.err

    return call
