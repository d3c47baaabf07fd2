"""How many seeds a comparison needs, from the parts of the variance that it measured.

Method: the textbook sample size for a paired t-test at 80 % power, with the part of the variance
that test images cause kept as it is, since more seeds do not shrink it.
"""

import numpy as np
from scipy import stats

from signforge.benchmark.statistics import LEVEL, Gain

POWER = 0.8
MAX_SEEDS = 1000


def seeds_needed(gain: Gain, effect: float) -> int | None:
    """The fewest seeds at which a true gain of ``effect`` (a share) is found in 80 % of cases.

    Found: the 95 % interval lies on one side of zero. None where ``gain`` has one seed, which
    shows no spread between seeds, and where even ``MAX_SEEDS`` do not suffice.
    """
    if gain.seed_sd is None or effect == 0:
        return None
    seeds = np.arange(2, MAX_SEEDS + 1)
    seed_var = gain.seed_sd**2 / seeds
    variance = seed_var + gain.image_sd**2
    if variance[0] == 0:
        return 2
    freedom = (seeds - 1) / np.maximum((seed_var / variance) ** 2, 1e-12)
    reach = stats.t.isf((1 - LEVEL) / 2, freedom)
    found = stats.nct.sf(reach, freedom, abs(effect) / np.sqrt(variance))
    enough = np.flatnonzero(found >= POWER)
    return int(seeds[enough[0]]) if len(enough) else None
