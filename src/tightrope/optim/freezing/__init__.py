"""The frozen linear method of any optimizer: read from its state, looked through, or found by probing a copy."""

from .adapters import freeze, register_reader
from .reading import Reading

__all__ = ["freeze", "register_reader", "Reading"]
