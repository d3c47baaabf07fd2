import pytest

from signforge.benchmark.power import seeds_needed
from signforge.benchmark.statistics import Gain
from signforge.benchmark.verdict import Contender, points, verdict

UP = (0.01, 0.004, 0.016, 0.002)
DOWN = (-0.01, -0.016, -0.004, 0.002)
NONE = (0.003, -0.004, 0.011, 0.3)
BARELY = (0.01, 0.0001, 0.02, 0.04)


def gain(figures, seeds=3):
    mean, low, high, p = figures
    seed_sd = None if seeds == 1 else 0.006
    return Gain(mean, low, high, seeds, p=p, image_sd=0.001, seed_sd=seed_sd)


def cheap(over_real, seeds=3):
    return Contender("oversample", gain(over_real, seeds))


def generative(over_real, over_cheap=None, seeds=3):
    return Contender("synthetic", gain(over_real, seeds), over_cheap and gain(over_cheap, seeds))


def test_a_generator_that_beats_everything_is_recommended():
    assert verdict(cheap(NONE), generative(UP, UP)) == (
        "Use `synthetic`: macro accuracy +1.00 points (95 % interval +0.40 to +1.60, p = 0.002, "
        "over 3 seeds and test images) over plain training (`real`), and +1.00 points (95 % "
        "interval +0.40 to +1.60, p = 0.002, over 3 seeds and test images) over the best cheap "
        "remedy, `oversample`."
    )


def test_a_cheap_remedy_that_is_as_good_is_preferred():
    said = verdict(cheap(UP), generative(UP, NONE))
    assert said.startswith("Use `oversample`: macro accuracy +1.00 points")
    assert "and `synthetic` is not measurably better than it: +0.30 points (95 %" in said


def test_a_generator_that_is_worse_than_the_cheap_remedy_is_named_as_worse():
    for over_real in (UP, NONE, DOWN):
        said = verdict(cheap(UP), generative(over_real, DOWN))
        assert said.startswith("Use `oversample`: macro accuracy +1.00 points")
        assert "and `synthetic` is worse: -1.00 points (95 %" in said


def test_a_generator_that_beats_real_but_not_the_cheap_arm_for_sure_says_both():
    said = verdict(cheap(NONE), generative(UP, NONE))
    assert said.startswith("Use `synthetic`")
    assert "though it is not measurably better than the best cheap remedy, `oversample`: +" in said


def test_without_a_rival_a_contender_is_compared_with_real_alone():
    said = verdict(None, generative(UP))
    assert said.startswith("Use `synthetic`")
    assert "cheap" not in said
    assert verdict(cheap(UP), None).endswith("over plain training (`real`).")
    assert verdict(cheap(NONE), generative(UP)).endswith("over plain training (`real`).")
    assert verdict(cheap(UP), generative(UP)).startswith("Use `oversample`")


def test_two_contenders_are_corrected_for_being_two():
    assert verdict(None, generative(BARELY)).startswith("Use `synthetic`")
    assert verdict(cheap(NONE), generative(BARELY, NONE)).startswith("No measurable difference")
    # Holm: the second of two needs no correction once the first is sure.
    assert verdict(cheap(UP), generative(BARELY, UP)).startswith("Use `synthetic`")


def test_no_measurable_difference_says_how_many_seeds_would_show_one():
    found = generative(NONE, NONE)
    said = verdict(cheap((-0.003, -0.011, 0.004, 0.3)), found)
    assert said.startswith(
        "No measurable difference: neither `oversample` nor `synthetic` raised macro accuracy"
    )
    assert "`synthetic`, changed it by +0.30 points (95 % interval -0.40 to +1.10" in said
    one, small = (seeds_needed(found.over_real, effect) for effect in (0.01, 0.003))
    assert f"to find 1 point in 80 % of cases would take about {one} seeds" in said
    assert said.endswith(f"to find 0.30 points about {small} seeds.")


def test_a_loser_beside_one_that_made_no_difference_is_named_as_losing():
    for said in (
        verdict(cheap(NONE), Contender("synthetic", gain(DOWN), gain(DOWN))),
        verdict(Contender("synthetic", gain(DOWN)), Contender("oversample", gain(NONE))),
    ):
        assert said.startswith(
            "No remedy raised macro accuracy over plain training (`real`) for sure: `synthetic` "
            "made it worse, by -1.00 points (95 % interval -1.60 to -0.40, p = 0.002, over 3 "
            "seeds and test images), and `oversample` changed it by +0.30 points"
        )
        assert said.endswith(" seeds.")


def test_only_a_sure_loser_is_called_worse():
    barely = (-0.01, -0.02, -0.0001, 0.045)
    said = verdict(cheap(barely), generative(barely, NONE))  # 0.09 when corrected
    assert said.startswith("No measurable difference: neither ")
    said = verdict(cheap(DOWN, seeds=1), generative(DOWN, NONE))
    assert said.startswith("No remedy raised macro accuracy over plain training (`real`) for sure")
    assert "`synthetic` made it worse" in said
    assert "`oversample` made it worse" not in said


def test_more_test_images_are_asked_for_where_no_number_of_seeds_would_do():
    def said(image_sd, mean=0.003):
        found = Gain(mean, -0.4, 0.5, 3, p=0.3, image_sd=image_sd, seed_sd=0.006)
        return verdict(Contender("oversample", found), None)

    assert said(image_sd=0.05).endswith(
        "; to find 1 point or 0.30 points in 80 % of cases takes more test images, not more seeds "
        "(even 1,000 would not do)."
    )
    assert "; to find 1 point in 80 % of cases takes more test" in said(image_sd=0.05, mean=0.0)
    half = said(image_sd=0.002)
    assert "to find 1 point in 80 % of cases would take about " in half
    assert half.endswith(" seeds, to find 0.30 points more test images, not more seeds.")


def test_one_seed_recommends_nothing_and_is_told_to_run_more():
    for over_real in (UP, NONE, DOWN):
        said = verdict(cheap(over_real, seeds=1), None)
        assert said.startswith("No verdict from one seed")
        assert "over test images only) against plain training (`real`)" in said
        assert said.endswith("run three seeds or more.")
    said = verdict(cheap(NONE, seeds=3), generative(UP, NONE, seeds=1))
    assert said.startswith("No measurable difference")
    assert said.endswith("it has one seed, so run three or more.")


def test_losing_arms_are_named_as_losing():
    said = verdict(cheap((-0.02, -0.03, -0.01, 0.001)), generative(DOWN, NONE))
    assert said.startswith(
        "Use plain training (`real`): `oversample` and `synthetic` made macro accuracy worse; the "
        "better of them, `synthetic`, changed it by -1.00 points"
    )
    assert "; it changed it by -1.00 points" in verdict(None, generative(DOWN))


def test_a_generator_that_is_worse_than_the_cheap_remedy_is_not_recommended():
    said = verdict(cheap(NONE), generative(UP, DOWN))
    assert said.startswith("Use `oversample`: `synthetic` raised macro accuracy +1.00 points")
    assert "and is worse than it, by -1.00 points" in said
    one_seed = Contender("synthetic", gain(UP), gain(DOWN, seeds=1))
    assert verdict(cheap(NONE, seeds=1), one_seed).startswith("Use `synthetic`")


def test_a_generator_of_one_seed_is_not_called_no_better():
    said = verdict(cheap(UP), generative(UP, UP, seeds=1))
    assert said.startswith("Use `oversample`: macro accuracy +1.00 points")
    assert "and one seed of `synthetic` is too few to say more: +1.00 points" in said
    assert "not measurably better" not in said


def test_one_shared_seed_is_too_few_to_prefer_a_generator():
    one_shared = Contender("synthetic", gain(UP), gain(UP, seeds=1))
    said = verdict(cheap(UP), one_shared)
    assert said.startswith("Use `oversample`: macro accuracy +1.00 points")
    assert "is too few to say more" in said


def test_a_generator_that_beats_the_cheap_arm_but_real_for_sure_only_alone_says_so():
    said = verdict(cheap(UP), generative((0.02, -0.001, 0.04, 0.06), UP))
    assert said.startswith("Use `oversample`: macro accuracy +1.00 points")
    assert "surer than `synthetic`, though that one is better than it by +1.00 points" in said


def test_nothing_to_compare_is_said():
    assert verdict(None, None).startswith("No remedy was compared")


@pytest.mark.parametrize(("share", "text"), [(0.0123, "+1.23"), (-0.5, "-50.00"), (0.0, "+0.00")])
def test_points(share, text):
    assert points(share) == text
