"""Images per second of a DataLoader over SyntheticBalancedDataset, oversampling and the naive way.

    python benchmarks/balance_speed.py --data GTSRB --out benchmarks/balance

GTSRB's official training split, 39,209 images, balanced to 43 x 2,250 = 96,750. Compared are
``real`` (nothing repeated), ``oversample`` (real images repeated to the same counts), ``ours`` at
several ``refresh``, and ``naive`` (the generator called for each image in ``__getitem__``). All
hold their real images decoded in memory and read real images by one gather a batch, so that the
loader's own cost is not hidden behind a disk.

--transforms: ``timm`` is timm's training transform for resnet18 at the size of the data: random
crop (scale 0.8 to 1, so that the sign stays in the picture), bicubic resize, colour jitter 0.4,
no flip, ToTensor, Normalize, on PIL images made by ToPILImage. ``none`` gives the uint8 images
as they lie: nothing but the loader, and what signforge's own resnet18 training reads, which
augments batches.

All in one process, in turns, begun at another one every round; ratios are taken round by round.
An epoch costs the time of ``set_epoch`` and of the loader (starting and stopping the workers
included), and images per second are those of an epoch; "loader alone" leaves ``set_epoch`` out.
Where fewer batches than an epoch has are measured, the loader's time is scaled up.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from balanced_data import (
    FirstIndices,
    NaivelyBalanced,
    Transform,
    Transformed,
    add_common_options,
    load_training_images,
    origin,
)
from records import markdown_table, provenance_text, run_script, write_json
from timing import Spread, ratio_spread, rotated, spread
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler
from torchvision.transforms import v2

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.benchmark.repeat_sampler import RepeatSampler
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.gan.sampler import ClassConditionalSampler, load_sampler

TRANSFORMS = ("timm", "none")
BASE = "oversample"
LEAST_SHARE_OF_OVERSAMPLED, LEAST_TIMES_NAIVE = 0.95, 20.0
AIM_REFRESH = 0.1
Row = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One way to read an epoch.

    open: from a transform to the data set and the order of its indices.
    set_epoch: brings in the images of an epoch, where there is something to bring in.
    most_batches: of an epoch that are measured.
    """

    name: str
    open: Callable[[Transform | None], tuple[Dataset[Any], Sampler[int]]]
    most_batches: int
    set_epoch: Callable[[int], None] | None = None


def build_arms(
    images: LabeledImages,
    sampler: ClassConditionalSampler,
    refreshes: Sequence[float],
    *,
    batches: int,
    naive_batches: int,
) -> tuple[list[Arm], list[float]]:
    """The arms, and the seconds that each of ours took to be made, first filling included."""
    order = torch.Generator().manual_seed(0)
    ours, seconds = [], []
    for refresh in refreshes:
        print(f"  filling the pool of refresh {refresh:g} ...", file=sys.stderr, flush=True)
        started = time.perf_counter()
        ours.append(SyntheticBalancedDataset(images, sampler, refresh=refresh))
        seconds.append(time.perf_counter() - started)
    repeated = RepeatSampler(images.labels, ours[0].class_counts, seed=0)

    def shuffled(dataset: Dataset[Any]) -> tuple[Dataset[Any], Sampler[int]]:
        return dataset, RandomSampler(dataset, generator=order)  # type: ignore[arg-type]

    def open_ours(
        dataset: SyntheticBalancedDataset,
    ) -> Callable[[Transform | None], tuple[Dataset[Any], Sampler[int]]]:
        def opened(transform: Transform | None) -> tuple[Dataset[Any], Sampler[int]]:
            dataset.transform = transform
            return shuffled(dataset)

        return opened

    arms = [
        Arm("real", lambda transform: shuffled(Transformed(images, transform)), batches),
        Arm(
            BASE,
            lambda transform: (Transformed(images, transform), repeated),
            batches,
            repeated.set_epoch,
        ),
    ]
    arms += [
        Arm(ours_name(refresh), open_ours(dataset), batches, dataset.set_epoch)
        for refresh, dataset in zip(refreshes, ours, strict=True)
    ]
    naive_way = Arm(
        "naive",
        lambda transform: shuffled(NaivelyBalanced(images, sampler, ours[0], transform)),
        min(naive_batches, batches),
    )
    return [*arms, naive_way], seconds


def ours_name(refresh: float) -> str:
    return f"ours, refresh {refresh:g}"


def build_transform(name: str, resolution: int) -> Transform | None:
    if name == "none":
        return None
    settings = timm.data.resolve_data_config({}, model=timm.create_model("resnet18"))
    augment: Transform = timm.data.create_transform(
        resolution,
        is_training=True,
        scale=(0.8, 1.0),
        hflip=0.0,
        interpolation=settings["interpolation"],
        mean=settings["mean"],
        std=settings["std"],
    )
    return v2.Compose([v2.ToPILImage(), augment])


def measure_arm(
    arm: Arm, transform: Transform | None, *, workers: int, batch_size: int
) -> dict[str, float]:
    """Seconds to read the first batches of an epoch, and its images in all."""
    dataset, indices = arm.open(transform)
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=FirstIndices(indices, arm.most_batches * batch_size),
        num_workers=workers,
    )
    started = time.perf_counter()
    images = sum(len(labels) for _, labels in loader)
    return {
        "loader_seconds": time.perf_counter() - started,
        "images": images,
        "batches": len(loader),
        "epoch_images": len(indices),  # type: ignore[arg-type]
    }


def measure(
    arms: Sequence[Arm],
    transforms: Mapping[str, Transform | None],
    workers: Sequence[int],
    *,
    rounds: int,
    batch_size: int,
) -> list[Row]:
    """One row an arm, transform, number of workers and round.

    A round sets the epoch of each arm once, before it is read with every transform and number of
    workers. Round 0 warms up and leaves no row. Rows come sorted by way, arm and round.
    """
    ways = [(name, number) for name in transforms for number in workers]
    rows = []
    for number in range(rounds + 1):
        print(f"  round {number} of {rounds} ...", file=sys.stderr, flush=True)
        for arm in rotated(arms, number):
            started = time.perf_counter()
            if arm.set_epoch is not None and number:
                arm.set_epoch(number)
            seconds = time.perf_counter() - started
            if not number:
                few = Arm(arm.name, arm.open, 2)
                for name, count in ways:
                    measure_arm(few, transforms[name], workers=count, batch_size=batch_size)
                continue
            for name, count in rotated(ways, number):
                found = measure_arm(arm, transforms[name], workers=count, batch_size=batch_size)
                rows.append(
                    {
                        "arm": arm.name,
                        "transform": name,
                        "workers": count,
                        "round": number,
                        "set_epoch_seconds": seconds,
                        **found,
                    }
                )
    names = [arm.name for arm in arms]
    return sorted(
        rows,
        key=lambda row: (
            ways.index((row["transform"], row["workers"])),
            names.index(row["arm"]),
            row["round"],
        ),
    )


def rate(row: Row, *, with_set_epoch: bool) -> float:
    """Images per second of the epoch that ``row`` measured a part of."""
    loader_seconds = row["loader_seconds"] * row["epoch_images"] / row["images"]
    seconds: float = loader_seconds + (row["set_epoch_seconds"] if with_set_epoch else 0.0)
    return float(row["epoch_images"]) / seconds


def rates(
    rows: Iterable[Row], arm: str, transform: str, workers: int, *, with_set_epoch: bool = True
) -> list[float]:
    """Of each round, in order."""
    wanted = (arm, transform, workers)
    return [
        rate(row, with_set_epoch=with_set_epoch)
        for row in rows
        if (row["arm"], row["transform"], row["workers"]) == wanted
    ]


def table(rows: Sequence[Row], transform: str, workers: int) -> str:
    chosen = [row for row in rows if (row["transform"], row["workers"]) == (transform, workers)]
    lines = []
    for arm in dict.fromkeys(row["arm"] for row in chosen):
        mine = [row for row in chosen if row["arm"] == arm]
        line = [arm, f"{mine[0]['epoch_images']:,}"]
        for with_set_epoch in (True, False):
            found, base = (
                rates(chosen, name, transform, workers, with_set_epoch=with_set_epoch)
                for name in (arm, BASE)
            )
            line += [f"{spread(found):,.0f}", f"{ratio_spread(found, base):.3f}"]
        whole = -(-mine[0]["epoch_images"] * mine[0]["batches"] // mine[0]["images"])
        line += [
            f"{spread([row['set_epoch_seconds'] for row in mine]):.2f}",
            f"{mine[0]['batches']} of {whole}",
        ]
        lines.append(line)
    header = ["", "images an epoch", "images/s", f"over {BASE}", "loader alone, images/s"]
    header += [f"loader alone, over {BASE}", "set_epoch, s", "batches measured"]
    return markdown_table(header, lines)


def verdicts(rows: Sequence[Row], transform: str, workers: int) -> str:
    """Our two aims at refresh 0.1 in words, where that was measured."""
    ours, base, naive_way = (
        rates(rows, arm, transform, workers) for arm in (ours_name(AIM_REFRESH), BASE, "naive")
    )
    if not ours:
        return ""
    share, times = ratio_spread(ours, base), ratio_spread(ours, naive_way)
    return "\n".join(
        (
            f"Ours at refresh {AIM_REFRESH:g} over oversampled: {share:.3f}; aim at least "
            f"{LEAST_SHARE_OF_OVERSAMPLED:g}, {_judged(share, LEAST_SHARE_OF_OVERSAMPLED)}.",
            f"Over the naive way: {times:.1f}; aim at least {LEAST_TIMES_NAIVE:g}, "
            f"{_judged(times, LEAST_TIMES_NAIVE)}.",
            "",
        )
    )


def _judged(found: Spread, least: float) -> str:
    return "met" if found.median >= least else "missed"


def report(rows: Sequence[Row], fill_seconds: Sequence[float]) -> str:
    text = f"First filling of the pool: {spread(fill_seconds):.1f} s (n = {len(fill_seconds)}).\n"
    for transform, workers in dict.fromkeys((row["transform"], row["workers"]) for row in rows):
        text += f"\n## Transform {transform}, {workers} workers\n\n"
        text += table(rows, transform, workers) + "\n" + verdicts(rows, transform, workers)
    return text


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_common_options(parser)
    parser.add_argument("--transforms", nargs="+", choices=TRANSFORMS, default=TRANSFORMS)
    parser.add_argument("--workers", type=int, nargs="+", default=(0, 2))
    parser.add_argument("--refresh", type=float, nargs="+", default=(0.0, 0.1, 1.0))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=sys.maxsize, help="default: an epoch")
    parser.add_argument("--naive-batches", type=int, default=4)
    options = parser.parse_args(argv)
    if min(options.rounds, options.batches, options.naive_batches, options.batch_size) < 1:
        raise SignforgeError(
            "--rounds, --batches, --naive-batches and --batch-size must be at least 1."
        )
    torch.set_num_threads(options.threads)
    images, sampler = load_training_images(options.data), load_sampler(options.generator)
    made = origin(__file__, argv, options, sampler)
    arms, fill_seconds = build_arms(
        images,
        sampler,
        options.refresh,
        batches=options.batches,
        naive_batches=options.naive_batches,
    )
    transforms = {name: build_transform(name, images.resolution) for name in options.transforms}
    rows = measure(
        arms, transforms, options.workers, rounds=options.rounds, batch_size=options.batch_size
    )
    text = provenance_text(made) + (
        f"\n{len(images):,} real images, {images.resolution} pixels; batches of "
        f"{options.batch_size}; {options.threads} threads; n = {options.rounds} rounds, each "
        "figure their median with the smallest and the largest.\n"
    )
    text += report(rows, fill_seconds)
    print(text)
    if options.out:
        found = {"origin": made, "fill_seconds": fill_seconds, "rows": rows}
        write_json(options.out / "loader.json", found)
        (options.out / "loader.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(run_script(main))
