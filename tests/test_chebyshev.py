"""The smallest real demonstration: every method settles at its own threshold, and the probe sees what is there."""

from __future__ import annotations

import pytest

from benchmarks.chebyshev import ROWS, settle


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.label)
def test_a_method_settles_at_its_threshold_and_the_probe_agrees_with_the_dense_hessian(row):
    got = settle(row)
    assert abs(got.ours - got.dense) <= 0.03
    assert abs(got.dense - row.expected) <= row.tolerance
    assert abs(got.ours - row.expected) <= row.tolerance
    assert got.worst <= 1
    assert row.plain is None or abs(got.plain - row.plain) <= row.tolerance
