"""Time of an epoch of resnet18 training on SyntheticBalancedDataset against oversampling.

    python benchmarks/balance_training.py --data GTSRB --out benchmarks/balance

signforge's own training loop (AdamW, batch augmentation, bf16 where it pays) on GTSRB's official
training split, balanced to 96,750 images: with real images repeated, and with ours at several
``refresh``. All in one process, in turns, begun at another one every round; ratios are taken round
by round. --steps of an epoch are measured and scaled up to it; the refresh is measured whole and
added once: epoch = set_epoch + seconds of a step x steps of an epoch.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from balanced_data import add_common_options, load_training_images, origin
from records import markdown_table, provenance_text, run_script, write_json
from timing import ratio_spread, rotated, spread
from torch.utils.data import Dataset, Sampler

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.benchmark.repeat_sampler import RepeatSampler
from signforge.classify.model import build_classifier
from signforge.classify.training import fit_classifier
from signforge.config import ClassifierConfig
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.gan.sampler import ClassConditionalSampler, load_sampler

BASE = "oversample"
MOST_OVER_OVERSAMPLED = 1.05
Row = dict[str, Any]


class FromEpoch(Dataset[Any]):
    """A balanced data set whose epochs begin at ``first``; adds up the seconds of ``set_epoch``."""

    def __init__(self, dataset: SyntheticBalancedDataset, first: int) -> None:
        self.dataset = dataset
        self.first = first
        self.seconds = 0.0

    def set_epoch(self, epoch: int) -> None:
        started = time.perf_counter()
        self.dataset.set_epoch(self.first + epoch)
        self.seconds += time.perf_counter() - started

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        return self.dataset.__getitems__(indices)


def measure_epoch(
    images: LabeledImages,
    balanced: SyntheticBalancedDataset | None,
    repeated: RepeatSampler,
    *,
    config: ClassifierConfig,
    epoch: int,
) -> dict[str, float]:
    """The first ``config.steps`` steps of an epoch on ``balanced``, or on ``repeated`` images."""
    model = build_classifier(
        config.name,
        num_classes=images.num_classes,
        resolution=images.resolution,
        pretrained=False,
        seed=0,
    )
    dataset: Dataset[Any] = images
    sampler: Sampler[int] | None = repeated
    refreshed = None
    if balanced is not None:
        dataset, sampler = FromEpoch(balanced, epoch), None
        refreshed = dataset
    fit = fit_classifier(model, dataset, config=config, seed=epoch, sampler=sampler)
    set_epoch_seconds = refreshed.seconds if refreshed else 0.0
    return {
        "steps": config.steps,
        "set_epoch_seconds": set_epoch_seconds,
        "seconds_per_step": (fit.seconds - set_epoch_seconds) / config.steps,
    }


def measure(
    images: LabeledImages,
    sampler: ClassConditionalSampler,
    refreshes: Sequence[float],
    *,
    config: ClassifierConfig,
    rounds: int,
) -> list[Row]:
    """One row an arm and round; round 0 warms up with a few steps and leaves no row."""
    sets: dict[str, SyntheticBalancedDataset | None] = {BASE: None}
    for refresh in refreshes:
        print(f"  filling the pool of refresh {refresh:g} ...", file=sys.stderr, flush=True)
        sets[f"ours, refresh {refresh:g}"] = SyntheticBalancedDataset(
            images, sampler, refresh=refresh
        )
    counts = next(balanced for balanced in sets.values() if balanced is not None).class_counts
    repeated = RepeatSampler(images.labels, counts, seed=0)
    whole = len(repeated) // config.batch_size
    if config.steps > whole:
        raise SignforgeError(f"An epoch has {whole} steps; give --steps of at most that.")
    few = config.model_copy(update={"steps": min(3, config.steps)})
    rows: list[Row] = []
    for number in range(rounds + 1):
        print(f"  round {number} of {rounds} ...", file=sys.stderr, flush=True)
        for name in rotated(list(sets), number):
            settings = config if number else few
            found = measure_epoch(images, sets[name], repeated, config=settings, epoch=number)
            if number:
                rows.append({"arm": name, "round": number, "epoch_steps": whole, **found})
    return rows


def epoch_seconds(row: Row) -> float:
    return float(row["set_epoch_seconds"] + row["seconds_per_step"] * row["epoch_steps"])


def table(rows: Sequence[Row]) -> str:
    base = [epoch_seconds(row) for row in rows if row["arm"] == BASE]
    lines = []
    for arm in dict.fromkeys([BASE, *(row["arm"] for row in rows)]):
        mine = [row for row in rows if row["arm"] == arm]
        ratio = ratio_spread([epoch_seconds(row) for row in mine], base)
        judged = "met" if ratio.median <= MOST_OVER_OVERSAMPLED else "missed"
        lines.append(
            [
                arm,
                f"{spread([row['seconds_per_step'] * 1e3 for row in mine]):.1f}",
                f"{spread([row['set_epoch_seconds'] for row in mine]):.2f}",
                f"{spread([epoch_seconds(row) for row in mine]):.1f}",
                f"{ratio:.3f}",
                "" if arm == BASE else judged,
                f"{mine[0]['steps']} of {mine[0]['epoch_steps']}",
            ]
        )
    header = ["", "ms a step", "set_epoch, s", "epoch, s", f"over {BASE}"]
    header += [f"aim at most {MOST_OVER_OVERSAMPLED:g}", "steps measured"]
    return markdown_table(header, lines)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    parser.add_argument("--classifier", default="resnet18", help="a timm model")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--refresh", type=float, nargs="+", default=(0.1, 0.25))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help="of an epoch, measured")
    options = parser.parse_args(argv)
    if min(options.rounds, options.steps) < 1 or options.batch_size < 2:
        raise SignforgeError("--rounds and --steps must be at least 1, --batch-size at least 2.")
    torch.set_num_threads(options.threads)
    images, sampler = load_training_images(options.data), load_sampler(options.generator)
    config = ClassifierConfig(
        name=options.classifier,
        steps=options.steps,
        batch_size=options.batch_size,
        num_workers=options.workers,
    )
    made = origin(__file__, argv, options, sampler)
    rows = measure(images, sampler, options.refresh, config=config, rounds=options.rounds)
    text = provenance_text(made) + (
        f"\n{options.classifier} on {len(images):,} real images of {images.resolution} pixels; "
        f"batches of {options.batch_size}; {options.workers} workers, {options.threads} threads; "
        f"n = {options.rounds} rounds, each figure their median with the smallest and the "
        f"largest.\n\n{table(rows)}"
    )
    print(text)
    if options.out:
        write_json(options.out / "training.json", {"origin": made, "rows": rows})
        (options.out / "training.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(run_script(main))
