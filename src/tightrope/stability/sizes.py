"""Bytes in words."""

from __future__ import annotations


def size_words(num_bytes: float) -> str:
    """Bytes as people say them.

    Example:
        >>> size_words(12_345_678), size_words(512)
        ('12.3 MB', '512 B')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.3g} {unit}"
    return f"{num_bytes:.0f} B"
