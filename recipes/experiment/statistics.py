"""Statistics of results: differences paired by seed, correlations."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

from scipy import stats

CONFIDENCE = 0.95
POWER = 0.8
# More seeds than anybody trains.
MOST_SEEDS = 10_000


@dataclasses.dataclass(frozen=True)
class Difference:
    """Mean difference of two sets of runs that are paired by seed.

    Attributes:
        mean: Float, mean of the differences.
        deviation: Float, their standard deviation, `None` of one pair.
        interval: Pair of floats, the 95 % confidence interval of the mean by
            Student's t distribution, `None` of one pair.
        p: Float, p-value of the two-sided paired t-test, `None` of one pair.
        seeds_needed: Integer, the pairs that would show a difference of this
            mean and deviation at the 5 % level in 80 % of experiments. `None`
            of one pair, without a difference, or if more than 10,000.
    """

    mean: float
    deviation: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    seeds_needed: int | None = None


def paired_difference(
    first: Sequence[float], second: Sequence[float]
) -> Difference:
    """Return the `Difference` of `first` minus `second`.

    Args:
        first, second: Sequences of one value for each seed, in the same
            order of seeds.

    Raises:
        ValueError: If there is no pair, or a value without a partner.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(
            "Each value needs a partner of the same seed. Received: "
            f"{len(first)} and {len(second)} values"
        )
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean = statistics.fmean(differences)
    if len(differences) == 1:
        return Difference(mean)
    deviation = statistics.stdev(differences)
    error = deviation / math.sqrt(len(differences))
    if error == 0:
        # Student's t would be a division by zero.
        p, needed = (1.0, None) if mean == 0 else (0.0, 2)
        return Difference(mean, deviation, (mean, mean), p, needed)
    # Not `scipy.stats.ttest_rel`, which warns of a loss of precision where
    # all differences are the same but for rounding.
    student = stats.t(len(differences) - 1)
    half = student.ppf((1 + CONFIDENCE) / 2) * error
    return Difference(
        mean,
        deviation,
        (float(mean - half), float(mean + half)),
        float(2 * student.sf(abs(mean) / error)),
        seeds_needed(mean / deviation),
    )


def seeds_needed(effect: float) -> int | None:
    """Return how many pairs a paired t-test needs to show an effect.

    Args:
        effect: Float, the mean of the differences in standard deviations.

    Returns:
        Integer, the fewest pairs with which the two-sided test at the 5 %
        level has a power of 80 %; `None` if more than 10,000.
    """

    def power(n):
        critical = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
        return stats.nct.sf(critical, n - 1, abs(effect) * math.sqrt(n))

    if effect == 0 or power(MOST_SEEDS) < POWER:
        return None
    low, high = 1, MOST_SEEDS
    while high - low > 1:
        middle = (low + high) // 2
        if power(middle) < POWER:
            low = middle
        else:
            high = middle
    return high


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation, 0 where one side is constant."""
    if min(len(set(first)), len(set(second))) == 1:
        return 0.0
    return float(stats.spearmanr(first, second).statistic)
