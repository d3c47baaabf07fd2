import dataclasses

import numpy as np
import pytest
from scipy import stats

from signforge.benchmark.power import MAX_SEEDS, seeds_needed
from signforge.benchmark.statistics import Gain

ONE_POINT = Gain(0.01, -0.01, 0.03, 3, p=0.2, image_sd=0.0, seed_sd=0.01)


def test_it_is_the_sample_size_of_a_paired_t_test():
    # Effect size 1, two-sided 5 %, power 80 %: 10 pairs; effect size 0.5: 34 (Cohen 1988, G*Power).
    assert seeds_needed(ONE_POINT, 0.01) == 10
    assert seeds_needed(ONE_POINT, 0.005) == 34
    assert seeds_needed(ONE_POINT, -0.005) == 34


def test_that_many_seeds_find_the_effect_in_80_percent_of_cases():
    rng = np.random.default_rng(0)
    needed = seeds_needed(ONE_POINT, 0.01)
    found = []
    for seeds in (needed - 1, needed):
        gains = rng.normal(0.01, 0.01, (4000, seeds))
        low, _ = stats.t.interval(0.95, seeds - 1, gains.mean(1), stats.sem(gains, axis=1))
        found.append((low > 0).mean())
    assert found[0] < 0.8 + 0.01
    assert found[1] > 0.8 - 0.02


def test_seeds_do_not_shrink_what_test_images_cause():
    hard = dataclasses.replace(ONE_POINT, image_sd=0.003)
    assert seeds_needed(hard, 0.01) > seeds_needed(ONE_POINT, 0.01)
    assert seeds_needed(dataclasses.replace(hard, image_sd=0.01), 0.01) is None


def test_what_no_number_of_seeds_answers():
    assert seeds_needed(dataclasses.replace(ONE_POINT, seed_sd=None), 0.01) is None
    assert seeds_needed(ONE_POINT, 0.0) is None
    assert seeds_needed(ONE_POINT, 0.01 / MAX_SEEDS) is None


def test_without_any_spread_two_seeds_are_enough():
    assert seeds_needed(dataclasses.replace(ONE_POINT, seed_sd=0.0), 1e-6) == 2


@pytest.mark.parametrize("effect", [0.02, 0.01, 0.004])
def test_smaller_effects_need_more_seeds(effect):
    assert seeds_needed(ONE_POINT, effect) < seeds_needed(ONE_POINT, effect / 2)
