"""Numbers at the end of training, across runs."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from tightrope.studies import FallsWith, MidTraining, NeverFarBeyond, Outcome, SharperAtEqualSteps
from tightrope.studies.solutions import rank_correlation

from .made_up import made_up


def solved(lr, sharpness, residual=0.0, seed=0, steps=100, series="Adam", outcome="target_loss", error=0.1):
    config = {"method": {"lr": lr}, "seed": seed}
    measured = {"step": [1, steps], "sharpness": [1.0, sharpness], "sharpness_residual": [0.0, residual]}
    return made_up(f"lr {lr:g}", series, config=config, outcome=outcome, test={"error": error}, **measured)


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_that_of_scipy_with_ties(seed):
    draw = np.random.default_rng(seed)
    x, y = draw.integers(0, 5, 12).astype(float), draw.normal(size=12)
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


SHARPER = FallsWith("smaller is sharper", "sharpness", "lr", -0.8, "Adam")


@pytest.mark.parametrize(
    ("sharpness", "residual", "number", "result"),
    [
        ([50, 40, 30, 20, 10], 0.0, "-1.00", "PASS"),
        ([50, 30, 40, 20, 10], 0.0, "-0.90", "PASS"),
        ([10, 20, 30, 40, 50], 0.0, "1.00", "MISS"),
        ([50, 40, 30, 20, 10], 12.0, "-1.00", "UNDECIDED"),
        ([50, 40, 30, 20, 10], 4.0, "-1.00", "PASS"),
    ],
)
def test_a_number_falls_with_a_setting_at_both_ends_of_the_residuals(sharpness, residual, number, result):
    runs = [solved(10.0**-place, value, residual) for place, value in zip(range(5, 0, -1), sharpness, strict=True)]
    [found] = SHARPER.judge(runs)
    assert (found.number, found.result) == (number, result)


def test_seeds_are_averaged_before_ranks_are_taken():
    runs = [solved(10.0**-place, 0, seed=seed, error=error) for place, seed, error in (
        (4, 0, 0.9), (4, 1, 0.1), (3, 0, 0.4), (3, 1, 0.4), (2, 0, 0.3), (2, 1, 0.3), (1, 0, 0.2), (1, 1, 0.2),
    )]  # fmt: skip
    [found] = FallsWith("claim", "test error", "lr", -0.5, "Adam").judge(runs)
    assert (found.number, found.result) == ("-1.00", "PASS")
    assert "0.5 0.4 0.3 0.2" in found.why


def test_what_did_not_reach_the_loss_is_not_compared():
    runs = [solved(10.0**-place, place) for place in range(4)] + [solved(2.0, 1, outcome="completed")]
    [found] = SHARPER.judge(runs)
    assert (found.result, found.why) == ("UNDECIDED", "lr 2 did not reach the loss it is compared at")
    assert SHARPER.judge([*runs[:4], Outcome("later", "Adam")])[0].why == "later: not run yet"
    assert SHARPER.judge(runs[:3])[0].why == "3 settings"


def test_a_run_whose_end_was_not_measured_is_not_compared():
    runs = [solved(10.0**-place, value) for place, value in zip(range(5, 0, -1), (50, 40, 30, np.nan, 10), strict=True)]
    [found] = SHARPER.judge(runs)
    assert (found.result, found.why) == ("UNDECIDED", "lr 0.01 has no sharpness at its end")
    both = [*curve("Adam", [(10, 40), (100, np.nan), (1000, 400)]), *curve("momentum", [(10, 20), (1000, 200)])]
    [found] = EQUAL.judge(both)
    assert (found.number, found.result) == ("2.00 +- 0", "PASS")
    assert found.why.endswith("without lr 0.01, which has no sharpness at its end")


def curve(series, points, residual=0.0):
    return [solved(1 / steps, sharpness, residual, steps=steps, series=series) for steps, sharpness in points]


EQUAL = SharperAtEqualSteps("claim", "Adam", "momentum")


@pytest.mark.parametrize(
    ("adam", "residual", "number", "result"),
    [
        ([(10, 40), (1000, 400)], 0.0, "2.00", "PASS"),
        ([(10, 10), (1000, 400)], 0.0, "0.80", "MISS"),
        ([(10, 40), (1000, 400)], 15.0, "2.00", "UNDECIDED"),
        ([(2000, 40), (4000, 400)], 0.0, "", "UNDECIDED"),
    ],
)
def test_sharpness_is_compared_at_equal_steps_over_the_range_both_cover(adam, residual, number, result):
    # Powers of the steps, so that interpolation in logarithms is exact: 10 (steps / 10)^(1/2) on 20 to 500.
    momentum = [(steps, 20 * (steps / 10) ** 0.5) for steps in (10, 50, 1000)]
    if number == "0.80":
        momentum, adam = [(10, 12.5), (1000, 400)], [(10, 10), (1000, 400)]
    [found] = EQUAL.judge([*curve("Adam", adam, residual), *curve("momentum", momentum, residual)])
    assert found.number.split(" ")[0] == number
    assert found.result == result


def trained(batch_size, lr, ratio, residual=0.001, seed=0):
    config = {"batch_size": batch_size, "method": {"lr": lr}, "seed": seed}
    steps = np.arange(100, 1001, 100)
    ratios = np.where((steps >= 250) & (steps <= 750), ratio, 0.1)
    columns = {"residual": np.full(10, residual), "threshold": np.full(10, 38 / lr)}
    return made_up(f"{batch_size} {lr}", config=config, step=steps, ratio=ratios, **columns)


BY_SIZE = MidTraining("claim", "ratio", "batch_size", "lr", rises=True)
BY_RATE = MidTraining("claim", "preconditioned_sharpness", "lr", "batch_size", rises=False)


def test_the_middle_half_of_training_is_ordered_at_each_value_of_the_other_setting():
    runs = [
        trained(size, lr, size / 100 * (1 + lr), seed=seed) for size in (10, 50) for lr in (0.1, 0.2) for seed in (0, 1)
    ]
    found = BY_SIZE.judge(runs)
    assert [each.claim for each in found] == ["lr 0.1: claim", "lr 0.2: claim"]
    assert [each.number for each in found] == ["0.11 0.55", "0.12 0.6"]
    assert {each.result for each in found} == {"PASS"}
    assert {each.result for each in BY_RATE.judge(runs)} == {"PASS"}  # 38 / lr halves, the ratio hardly grows


@pytest.mark.parametrize(
    ("ratios", "residual", "result"), [((0.3, 0.2), 0.001, "MISS"), ((0.2, 0.3), 0.1, "UNDECIDED")]
)
def test_an_order_that_is_not_there_or_not_sure_does_not_pass(ratios, residual, result):
    runs = [trained(size, 0.1, ratio, residual) for size, ratio in zip((10, 50), ratios, strict=True)]
    assert BY_SIZE.judge(runs)[0].result == result


@pytest.mark.parametrize(
    ("ratio", "residual", "result"), [(1.2, 0.01, "PASS"), (1.4, 0.01, "MISS"), (1.29, 0.05, "UNDECIDED")]
)
def test_the_highest_ratio_after_the_first_steps_decides(ratio, residual, result):
    early = trained(11, 0.1, 5.0)
    early.record.measurements["step"][:] = [*range(1, 10), 60]
    early.record.measurements["ratio"][-1] = 0.2
    runs = [trained(50, 0.1, ratio, residual), trained(10, 0.1, 0.5), early]
    [found] = NeverFarBeyond("claim", after=50, below=1.3).judge(runs)
    assert (found.number.split(" ")[0], found.result) == (f"{ratio:.3f}", result)
    assert found.why.endswith("21 measurements, the first at step 60")


def test_a_run_that_was_not_measured_late_decides_nothing_about_the_highest_ratio():
    early = trained(10, 0.1, 0.2)
    early.record.measurements["step"][:] = range(1, 11)
    [found] = NeverFarBeyond("claim", after=50, below=1.3).judge([trained(50, 0.1, 0.5), early])
    assert (found.result, found.why) == ("UNDECIDED", "10 0.1: no ratio was measured after step 50")


def test_a_run_without_any_ratio_in_the_middle_of_training_leaves_the_order_open():
    blind = trained(50, 0.1, 0.5)
    blind.record.measurements["ratio"][:] = np.nan
    [found] = BY_SIZE.judge([trained(10, 0.1, 0.2), blind])
    assert (found.result, found.number) == ("UNDECIDED", "")


@pytest.mark.parametrize("outcome", ["completed", "diverged"])
@pytest.mark.parametrize("quantity", ["sharpness", "test error"])
def test_a_run_that_diverged_or_never_met_its_loss_is_named(outcome, quantity):
    lost = made_up("lost", "Adam", config={"method": {"lr": 0.5}}, outcome=outcome)
    check = FallsWith("claim", quantity, "lr", -0.8, "Adam")
    [found] = check.judge([*(solved(10.0**-place, place) for place in range(4)), lost])
    assert (found.result, found.why) == ("UNDECIDED", "lost did not reach the loss it is compared at")


def test_runs_that_never_met_the_loss_are_left_out_of_a_curve_and_named():
    lost = solved(9.0, 1.0, steps=50, series="Adam", outcome="completed")
    runs = [*curve("Adam", [(10, 40), (1000, 400)]), lost, *curve("momentum", [(10, 20), (1000, 200)])]
    [found] = EQUAL.judge(runs)
    assert found.result == "PASS"
    assert found.why.endswith("without lr 9, which did not reach the loss it is compared at")
