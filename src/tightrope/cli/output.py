"""Lines on standard output; a reader that went away ends the talk, not the run."""

from __future__ import annotations

import os
import sys


def say(text: str) -> None:
    """Print one line now; after the pipe broke, print nothing."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Nobody listens any more; without this the interpreter would complain again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
