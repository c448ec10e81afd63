"""Lines on standard output; a reader that went away ends the talk, not the run."""

from __future__ import annotations

import os
import sys


def say(text: str) -> None:
    """Print one line now; after the reader or the disk gave out, print nothing."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError:
        # Nobody listens any more; without this the interpreter would complain again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
