"""The first sentence of a report: which remedy to use, by how much it is better, how sure that is.

Two remedies at most are put to the test, both chosen on validation: the best without a generator
and the best with one. The test split then judges a choice it had no part in, and the number of
arms that were tried does not matter.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from signforge.benchmark.power import MAX_SEEDS, seeds_needed
from signforge.benchmark.statistics import LEVEL, Gain, holm

POINT = 0.01


@dataclass(frozen=True)
class Contender:
    """An arm chosen on validation, with its gains in macro accuracy on the test.

    over_cheap: over the other contender, for the arm that uses a generator; None without one.
    """

    arm: str
    over_real: Gain
    over_cheap: Gain | None = None


def verdict(cheap: Contender | None, generative: Contender | None) -> str:
    """One sentence; a contender is None where there is no such arm beside ``real``.

    A remedy is recommended only if its interval over ``real`` lies above zero, and stays there
    when corrected for the other contender (Holm); one seed recommends nothing. One that needs a
    generator is recommended over a cheap one only if it beats that one too, and never one that is
    measurably worse than it: then the cheap one is recommended, by what lies above ``real`` by way
    of the other. A remedy is called worse by the same rule as another is recommended.
    """
    tried = [found for found in (cheap, generative) if found is not None]
    if not tried:
        return (
            "No remedy was compared with plain training: run the arm `real` and at least one "
            "other with the same seeds."
        )
    if all(found.over_real.seeds == 1 for found in tried):
        best = max(tried, key=lambda found: found.over_real.mean)
        return (
            f"No verdict from one seed, which cannot show how much seeds differ: `{best.arm}` "
            f"changed macro accuracy by {_figures(best.over_real)} against plain training "
            "(`real`); run three seeds or more."
        )
    corrected = holm([found.over_real.p for found in tried])
    sure = [
        found
        for found, p in zip(tried, corrected, strict=True)
        if p < 1 - LEVEL and found.over_real.seeds > 1
    ]
    winners = [found for found in sure if found.over_real.direction > 0]
    if not winners:
        return _without_winner(tried, [found for found in sure if found.over_real.direction < 0])
    if generative is None or generative not in winners:
        return f"Use `{winners[0].arm}`: {_over_real(winners[0])}{_against(generative)}."
    over_cheap = generative.over_cheap
    if cheap in winners and (
        over_cheap is None or over_cheap.seeds == 1 or over_cheap.direction <= 0
    ):
        return f"Use `{winners[0].arm}`: {_over_real(winners[0])}{_against(generative)}."
    if cheap is None or over_cheap is None:
        return f"Use `{generative.arm}`: {_over_real(generative)}."
    if over_cheap.direction > 0:
        return (
            f"Use `{generative.arm}`: {_over_real(generative)}, and {_figures(over_cheap)} over "
            f"the best cheap remedy, `{cheap.arm}`."
        )
    if over_cheap.direction < 0 and over_cheap.seeds > 1:
        return (
            f"Use `{cheap.arm}`: `{generative.arm}` raised {_over_real(generative)} and is worse "
            f"than it, by {_figures(over_cheap)}."
        )
    return (
        f"Use `{generative.arm}`: {_over_real(generative)}, though it is not measurably better "
        f"than the best cheap remedy, `{cheap.arm}`: {_figures(over_cheap)}."
    )


def points(share: float) -> str:
    """``0.0123`` -> ``"+1.23"``, in percentage points."""
    return f"{100 * share:+.2f}"


def _without_winner(tried: Sequence[Contender], losers: Sequence[Contender]) -> str:
    best = max(tried, key=lambda found: found.over_real.mean)
    changed = f"changed it by {_figures(best.over_real)}"
    named = f"the better of them, `{best.arm}`, {changed}" if len(tried) > 1 else f"it {changed}"
    if len(losers) == len(tried):
        lost = " and ".join(f"`{found.arm}`" for found in losers)
        return f"Use plain training (`real`): {lost} made macro accuracy worse; {named}."
    if losers:
        (loser,) = losers
        (other,) = [found for found in tried if found is not loser]
        return (
            f"No remedy raised macro accuracy over plain training (`real`) for sure: `{loser.arm}` "
            f"made it worse, by {_figures(loser.over_real)}, and `{other.arm}` changed it by "
            f"{_figures(other.over_real)}; {_seeds_to_run(other.over_real)}."
        )
    if len(tried) > 1:
        neither = " nor ".join(f"`{found.arm}`" for found in tried)
        raised = f"neither {neither} raised macro accuracy over plain training (`real`) beyond "
        raised += "what chance does to the better of two"
    else:
        raised = f"`{best.arm}` did not raise macro accuracy over plain training (`real`) beyond "
        raised += "chance"
    return f"No measurable difference: {raised}; {named}; {_seeds_to_run(best.over_real)}."


def _seeds_to_run(gain: Gain) -> str:
    if gain.seed_sd is None:
        return "it has one seed, so run three or more"

    effects = {"1 point": POINT}
    if gain.mean:
        effects[f"{abs(100 * gain.mean):.2f} points"] = gain.mean
    needed = {named: seeds_needed(gain, effect) for named, effect in effects.items()}
    if not any(needed.values()):
        return (
            f"to find {' or '.join(needed)} in 80 % of cases takes more test images, not more "
            f"seeds (even {MAX_SEEDS:,} would not do)"
        )
    takes = {
        named: f"about {seeds:,} seeds" if seeds else "more test images, not more seeds"
        for named, seeds in needed.items()
    }
    first, *others = takes
    text = f"to find {first} in 80 % of cases would take {takes[first]}"
    return text + "".join(f", to find {named} {takes[named]}" for named in others)


def _against(generative: Contender | None) -> str:
    """What to add about the generator's arm where a cheap one is recommended."""
    if generative is None or generative.over_cheap is None:
        return ""
    gain = generative.over_cheap
    if gain.seeds == 1:
        return f", and one seed of `{generative.arm}` is too few to say more: {_figures(gain)}"
    if gain.direction > 0:
        return (
            f", which is surer than `{generative.arm}`, though that one is better than it by "
            f"{_figures(gain)}"
        )
    verb = "is worse" if gain.direction < 0 else "is not measurably better than it"
    return f", and `{generative.arm}` {verb}: {_figures(gain)}"


def _over_real(found: Contender) -> str:
    return f"macro accuracy {_figures(found.over_real)} over plain training (`real`)"


def _figures(gain: Gain) -> str:
    covers = "test images only" if gain.seeds == 1 else f"{gain.seeds} seeds and test images"
    p = "p < 0.001" if gain.p < 0.001 else f"p = {gain.p:.2g}"
    return (
        f"{points(gain.mean)} points (95 % interval {points(gain.low)} to {points(gain.high)}, "
        f"{p}, over {covers})"
    )
