"""Statistics of results: differences paired by seed, correlations."""

import bisect
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

    For a single pair, all values but the mean are `None`.
    """

    mean: float
    # 95 % confidence interval of the mean, by Student's t distribution.
    interval: tuple[float, float] | None = None
    # p-value of the two-sided paired t-test.
    p: float | None = None
    # Number of pairs that would show it: see `seeds_needed`.
    seeds_needed: int | None = None


def paired_difference(
    first: Sequence[float], second: Sequence[float]
) -> Difference:
    """Return the `Difference` of `first` minus `second`.

    Both have one value for each seed, in the same order of seeds.

    Raises:
        ValueError: If there is no pair, or if a value has no partner.
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
        # Student's t would divide by zero.
        p, needed = (1.0, None) if mean == 0 else (0.0, 2)
        return Difference(mean, (mean, mean), p, needed)
    # Not `scipy.stats.ttest_rel`, which warns of a loss of precision if all
    # differences are equal up to rounding.
    student = stats.t(len(differences) - 1)
    half = student.ppf((1 + CONFIDENCE) / 2) * error
    return Difference(
        mean,
        (float(mean - half), float(mean + half)),
        float(2 * student.sf(abs(mean) / error)),
        seeds_needed(mean / deviation),
    )


def seeds_needed(effect: float) -> int | None:
    """Return the number of pairs that a paired t-test needs for an effect.

    It is the lowest number with which the two-sided test at the 5 % level has
    a power of 80 %, or `None` above 10,000. The effect is the mean of the
    differences divided by their standard deviation.
    """

    def power(n):
        critical = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
        return stats.nct.sf(critical, n - 1, abs(effect) * math.sqrt(n))

    if effect == 0 or power(MOST_SEEDS) < POWER:
        return None
    return 2 + bisect.bisect_left(range(2, MOST_SEEDS), POWER, key=power)


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation, 0 if one side is constant."""
    if min(len(set(first)), len(set(second))) == 1:
        return 0.0
    return float(stats.spearmanr(first, second).statistic)
