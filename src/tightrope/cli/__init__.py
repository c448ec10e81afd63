"""The command line: one command a door, rooms imported only when a command needs them."""

from .app import main

__all__ = ["main"]
