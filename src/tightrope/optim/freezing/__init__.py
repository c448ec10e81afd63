"""The frozen linear method of any optimizer: read from its state, looked through, or found by probing a copy."""

from .adapters import freeze, register_reader
from .pinned import PinnedPath, pinned_path
from .reading import Reading
from .recollection import Recollection

__all__ = ["freeze", "register_reader", "Reading", "Recollection", "pinned_path", "PinnedPath"]
