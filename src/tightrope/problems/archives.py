"""The official CIFAR archives: where they are looked for, how one is known to be genuine, and how it is read.

A record is its labels, one byte each, and 3,072 bytes of pixels: the red plane row by row, then green, then blue
(https://www.cs.toronto.edu/~kriz/cifar.html, "Binary version"; md5 sums as published there).
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np

from tightrope.errors import DataError

from .images import NUM_PIXELS, Array, Images, read_npz


@dataclass(frozen=True)
class Archive:
    """A published data set: one compressed tar of fixed-length binary records.

    Attributes:
        name: As in a configuration.
        url, md5, num_bytes: Where it is published, and what makes a copy genuine.
        train, test: The members that hold the records.
        num_labels: Bytes of labels a record starts with; the last is the class.
        num_classes: How many classes there are.
    """

    name: str
    url: str
    md5: str
    num_bytes: int
    train: tuple[str, ...]
    test: tuple[str, ...]
    num_labels: int
    num_classes: int

    @property
    def file(self) -> str:
        """Its file name, the same everywhere."""
        return self.url.rpartition("/")[2]

    def is_genuine(self, path: Path) -> bool:
        """Whether the file is there and is the published one, to the last bit."""
        try:
            with path.open("rb") as file:
                return _md5(file) == self.md5
        except OSError:
            return False


ARCHIVES = {
    "cifar10": Archive(
        name="cifar10",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        num_bytes=170_052_171,
        train=tuple(f"cifar-10-batches-bin/data_batch_{number}.bin" for number in range(1, 6)),
        test=("cifar-10-batches-bin/test_batch.bin",),
        num_labels=1,
        num_classes=10,
    ),
    "cifar100": Archive(
        name="cifar100",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        num_bytes=168_513_733,
        train=("cifar-100-binary/train.bin",),
        test=("cifar-100-binary/test.bin",),
        num_labels=2,  # the superclass, then the class
        num_classes=100,
    ),
}


def data_folder() -> Path:
    """Where archives are kept: the folder TIGHTROPE_DATA names, or ~/.cache/tightrope."""
    return Path(os.path.expanduser(os.environ.get("TIGHTROPE_DATA") or "~/.cache/tightrope"))


def load(archive: Archive, path: str | None = None) -> Images:
    """The images of an archive, or of an .npz in its place.

    Args:
        archive: Which data set.
        path: The archive, or an .npz; None looks in the data folder for the archive, then for NAME.npz.
    Raises:
        DataError: there is no such file, it is not the published one, or the .npz does not hold what it must.
    Cost:
        An archive is checked and unpacked every time, and never to disk.
    """
    file = _find(archive, path)
    if file.suffix.lower() == ".npz":
        return read_npz(file, archive.num_classes)
    try:
        with file.open("rb") as opened:
            _check(archive, file, _md5(opened))
            opened.seek(0)
            members = _unpack(archive, opened)
    except DataError:
        raise
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{file}: must be a compressed tar that can be read; {error}.") from error
    train, test = (_records(archive, file, names, members) for names in (archive.train, archive.test))
    return Images.of(file, archive.num_classes, train, test)


def _find(archive: Archive, path: str | None) -> Path:
    # os.path, not pathlib: it takes any text, an unknown home or a folder one may not enter included.
    if path is not None:
        file = Path(os.path.expanduser(path))
        if not os.path.isfile(file):
            raise DataError(
                f"problem.path: must be {archive.file} or an .npz; there is no file {str(file)!r}. "
                f"Without a path, what `tightrope fetch {archive.name}` got is used."
            )
        return file
    folder = data_folder()
    for name in (archive.file, f"{archive.name}.npz"):
        if os.path.isfile(folder / name):
            return folder / name
    raise DataError(
        f"{archive.name}: {archive.file} or {archive.name}.npz must be in {folder}; neither is. "
        f"Get it with `tightrope fetch {archive.name}` ({archive.num_bytes / 1e6:.0f} MB), set TIGHTROPE_DATA to the "
        "folder that holds it, or problem.path to an .npz; the problem digits needs no file."
    )


def _check(archive: Archive, file: Path, md5: str) -> None:
    if md5 != archive.md5:
        raise DataError(
            f"{file}: must be the published {archive.file}, {archive.num_bytes} bytes with md5 {archive.md5}; got "
            f"{file.stat().st_size} bytes with md5 {md5}. Get it again with `tightrope fetch {archive.name}`."
        )


def _md5(file: BufferedReader) -> str:
    return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _unpack(archive: Archive, file: BufferedReader) -> dict[str, bytes]:
    """The bytes of the members that hold records; nothing is written, whatever paths the tar holds."""
    wanted, found = {*archive.train, *archive.test}, {}
    with tarfile.open(fileobj=file, mode="r|gz") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.name in wanted else None
            if content is not None:
                found[member.name] = content.read()
    return found


def _records(archive: Archive, file: Path, names: Sequence[str], members: dict[str, bytes]) -> tuple[Array, Array]:
    """Images (n, 32, 32, 3) and classes (n,) of the members, taken out of `members` in this order."""
    length = archive.num_labels + NUM_PIXELS
    for name in names:
        if name not in members:
            raise DataError(f"{file}: must hold {name}; it does not.")
        if len(members[name]) % length:
            raise DataError(f"{file}: {name} must be records of {length} bytes; got {len(members[name])} bytes.")
    num_records = sum(len(members[name]) // length for name in names)
    x, y = np.empty((num_records, 32, 32, 3), np.uint8), np.empty(num_records, np.uint8)
    start = 0
    for name in names:
        records = np.frombuffer(members.pop(name), np.uint8).reshape(-1, length)
        stop = start + len(records)
        y[start:stop] = records[:, archive.num_labels - 1]
        x[start:stop] = records[:, archive.num_labels :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        start = stop
    return x, y
