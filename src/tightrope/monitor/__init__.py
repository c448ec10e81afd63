"""Put the instrument on a training loop we do not own: cheap, quiet, and without a trace on the run."""

from .sinks import Sink
from .watch import Pause, Watcher, say, watch

__all__ = ["watch", "Watcher", "Pause", "Sink", "say"]
