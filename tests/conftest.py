"""One thread: the tests' matrices are small, and the numbers then do not depend on the number of cores.

And Ctrl-C means what it does at a terminal: a shell has what it starts in the background ignore it, and so would the
programs that tests start and interrupt.
"""

from __future__ import annotations

import signal

import torch

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
