"""How `tightrope fetch` looks: what is there already, a bar while it comes, and where it went."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from tightrope.errors import ConfigError, did_you_mean
from tightrope.problems import ARCHIVES, data_folder, download

from .output import say


def fetch_archive(name: str) -> None:
    """Fetch an archive unless a genuine one is there, and say which of the two.

    Raises:
        ConfigError: there is none of that name.
        DataError: it cannot be fetched; what was there is untouched.
    """
    if name not in ARCHIVES:
        raise ConfigError(f"fetch: '{name}' is not known. {did_you_mean(name, ARCHIVES)}")
    archive = ARCHIVES[name]
    path = data_folder() / archive.file
    if archive.is_genuine(path):
        say(f"Already there, and right (md5 {archive.md5}): {path}")
        return
    say(f"Fetching {archive.url} ({archive.num_bytes / 1e6:.0f} MB)")
    with _bar(archive.num_bytes) as observe:
        download(archive, observe)
    say(f"Fetched, and right (md5 {archive.md5}): {path}")


@contextmanager
def _bar(num_bytes: int) -> Iterator[Callable[[int], None]]:
    """Takes the number of bytes so far; a live line on a terminal, nothing elsewhere."""
    console = Console()
    columns = BarColumn(bar_width=24), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as line:
        task = line.add_task("", total=num_bytes)
        yield lambda done: line.update(task, completed=done)
