r"""How often would this benchmark call a difference: where there is none, and where there is one?

    python benchmarks/aa_simulation.py --run benchmarks/results/gtsrb --comparisons 1000 --out aa.md

New fits of one arm are resampled from the predictions that a finished benchmark keeps, two sets of
them are compared as if they were two arms (A/A), and every call is a false alarm. With --gains the
first set gets a gain of that many points in the recall of every class, and calls are finds.
One line a number of seeds, a gain and a design effect, that of images which stand alone and the
one that the run's report uses, where it knows the groups: calls in macro accuracy, top-1 and worst
class, comparisons in which any class is called (after Holm's correction; a find only where a gain
was planted), how often the interval of macro accuracy holds the truth, and half that interval, the
median.

What it cannot show: a few cached fits span less than real seeds do, so the widths are those of
these cached fits; and images follow by themselves, not by groups, so that the report's design
effect makes calls rarer here than they need be. Images in groups: tests/benchmark/test_clusters.py.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, median

import numpy as np
import numpy.typing as npt
from records import command_line, markdown_table, provenance, provenance_text, run_script

from signforge.benchmark.folder import read_rows
from signforge.benchmark.run_clustering import clustering_of_run
from signforge.benchmark.statistics import METRICS, Comparison, compare
from signforge.errors import SignforgeError
from signforge.files import write_atomically

Labels = npt.NDArray[np.int64]
Hits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CachedFits:
    """correct: which images each fit got right, bool (F, N). target: true classes (N,)."""

    correct: Hits
    target: Labels


def main(argv: Sequence[str]) -> None:
    args = parse(argv)
    fits = read_fits(args.run, args.arm)
    clustering = clustering_of_run(args.run, read_rows(args.run))
    lines = []
    for seeds in args.seeds:
        effects = {1.0, clustering.design_effect(seeds) if clustering else 1.0}
        for effect, gain in product(sorted(effects), args.gains):
            found = simulate(
                fits,
                seeds=seeds,
                gain=gain / 100,
                comparisons=args.comparisons,
                resamples=args.resamples,
                design_effect=effect,
            )
            lines.append(table_line(found, seeds, gain, effect))
            print(f"{seeds} seeds, {gain:g} points, effect {effect:.1f}: done", file=sys.stderr)
    header = ["seeds", "planted", "design effect", *METRICS, "any class", "covered", "half-width"]
    text = (
        f"# A/A simulation from `{args.run}`, arm `{args.arm}`\n\n"
        f"{len(fits.correct)} cached fits, {len(fits.target):,} test images, {args.comparisons:,} "
        f"comparisons a line, {args.resamples} resamples each; shares in %, gains in points.\n\n"
        + markdown_table(header, lines)
        + "\n"
        + provenance_text(provenance(command_line(__file__, argv)))
    )
    write_atomically(args.out, text.encode())


def read_fits(run: Path, arm: str) -> CachedFits:
    """The predictions of one arm in a benchmark's folder.

    Raises SignforgeError where there are fewer than two of them.
    """
    paths = sorted((run / "predictions").glob(f"{arm}-seed*.npy"))
    if len(paths) < 2:
        raise SignforgeError(f"{run} holds {len(paths)} fits of the arm {arm}; it takes two.")
    target = np.load(run / "predictions" / "target.npy", allow_pickle=False).astype(np.int64)
    preds = np.stack([np.load(path, allow_pickle=False) for path in paths])
    return CachedFits(preds == target, target)


def simulate(
    fits: CachedFits,
    *,
    seeds: int,
    gain: float,
    comparisons: int,
    resamples: int,
    design_effect: float = 1.0,
) -> list[Comparison]:
    """Comparisons of two sets of resampled fits, the first with a planted gain (a share)."""
    rng = np.random.default_rng([seeds, round(1e6 * gain)])
    found = []
    for number in range(comparisons):
        arm, baseline = (resampled_fits(rng, fits, seeds) for _ in range(2))
        arm = planted(rng, arm, fits.target, gain)
        found.append(
            compare(
                arm,
                baseline,
                fits.target,
                design_effect=design_effect,
                resamples=resamples,
                seed=number,
            )
        )
    return found


def resampled_fits(rng: np.random.Generator, fits: CachedFits, seeds: int) -> Labels:
    """Predictions (seeds, N) of new fits, each a mixture of the cached ones.

    A fit leans to one cached fit as a whole, to another in some classes, and images follow by
    chance: new fits differ in all three, as seeds do.
    """
    target, classes = fits.target, int(fits.target.max()) + 1
    lean = rng.dirichlet(np.ones(len(fits.correct)), seeds)
    weights = np.stack([rng.dirichlet(4 * one + 1e-3, classes) for one in lean])
    bounds = weights.cumsum(-1)[:, target, :-1]
    source = (rng.random((seeds, len(target), 1)) > bounds).sum(-1)
    right = fits.correct[source, np.arange(len(target))]
    return np.where(right, target, (target + 1) % classes)


def planted(rng: np.random.Generator, preds: Labels, target: Labels, gain: float) -> Labels:
    """``preds`` (S, N) with ``gain`` more recall on average over classes and seeds.

    Mistakes are mended at random, in every class the same share of them.

    Raises SignforgeError where so much is not missing.
    """
    if gain == 0:
        return preds
    counts = np.bincount(target)
    errors = np.stack([np.bincount(target, row != target) for row in preds]) / counts
    if gain > errors.mean():
        raise SignforgeError(
            f"A gain of {100 * gain:g} points cannot be planted: these fits miss only "
            f"{100 * errors.mean():.1f} points of macro accuracy; plant a smaller one."
        )
    mended = rng.random(preds.shape) < gain / errors.mean()
    return np.where(mended, target, preds)


def table_line(
    found: Sequence[Comparison], seeds: int, gain: float, design_effect: float
) -> list[str]:
    """Shares of comparisons that call a difference, coverage, and half-width."""
    macro = [one.figures["macro_accuracy"] for one in found]
    called = [fmean(one.figures[metric].direction != 0 for one in found) for metric in METRICS]
    called.append(fmean(any(each.sure for each in one.classes) for one in found))
    called.append(fmean(each.low <= gain / 100 <= each.high for each in macro))
    width = median(each.high - each.low for each in macro) / 2
    return [
        str(seeds),
        f"{gain:g}",
        f"{design_effect:.1f}",
        *(f"{100 * share:.1f}" for share in called),
        f"{100 * width:.2f}",
    ]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="a benchmark's folder")
    parser.add_argument("--arm", default="real")
    parser.add_argument("--seeds", type=numbers, default=[2, 3, 5], help="as 2,3,5")
    parser.add_argument("--gains", type=gains, default=[0.0, 1.0, 2.0, 3.0], help="points, as 0,1")
    parser.add_argument("--comparisons", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True, help="a Markdown file")
    return parser.parse_args(argv)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def gains(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(run_script(main))
