"""One thread: the tests' matrices are small, and the numbers then do not depend on the number of cores."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
