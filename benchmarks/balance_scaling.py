"""Cost of SyntheticBalancedDataset as it grows: 10 to 10,000 classes, 10^4 to 10^6 real images.

    python benchmarks/balance_scaling.py --out benchmarks/balance

Fake images of one colour in a long tail (exponential, largest class 10 times the smallest),
balanced by "auto", and a sampler that does no more than fill memory; its time is given apart.
Every point in a fresh process, so that its memory is its own; several rounds over all points,
begun at another one each time.

data and pool are the bytes of images and labels (the pool's with the real item that may stand in
for each slot). peak is the most that was resident from the making of the data to the first batch
of epoch 1, shared memory and mapped files included, less what the process held before; it is
compared with data + pool. A pool beyond ``memory_cap_mib`` (4,096 by default) is such a file. A
worker's own memory is what it shares with nobody at its first batch.
"""

import argparse
import gc
import json
import multiprocessing
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from own_process import measure_in_own_process
from process_memory import peak_resident_bytes, private_bytes, reset_peak, resident_bytes
from records import (
    command_line,
    markdown_table,
    provenance,
    provenance_text,
    run_script,
    write_json,
)
from timing import rotated, spread
from torch import Tensor
from torch.utils.data import DataLoader

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.balance.strategy import resolve_sampling_strategy
from signforge.data.images import UNKNOWN_GROUP, LabeledImages
from signforge.errors import SignforgeError

CLASSES, FIXED_IMAGES = (10, 100, 1_000, 10_000), 100_000
IMAGES, FIXED_CLASSES = (10_000, 100_000, 1_000_000), 100
IMBALANCE_RATIO = 10.0
REFRESH = 0.25
MOST_MEMORY = 1.1
MIB = 2**20
SECONDS = (
    "plan_seconds",
    "construct_seconds",
    "drawing_seconds",
    "first_batch_seconds",
    "first_batch_2_workers_seconds",
    "set_epoch_seconds",
    "set_epoch_drawing_seconds",
)


class ColourSampler:
    """Draws each class in one colour, and notes how long that took."""

    fingerprint = "colour"

    def __init__(self, num_classes: int, resolution: int) -> None:
        self.num_classes = num_classes
        self.resolution = resolution
        self.class_names = tuple(str(label) for label in range(num_classes))
        self.seconds = 0.0

    def sample(self, labels: Tensor, seed: int) -> Tensor:
        del seed
        started = time.perf_counter()
        images = coloured(labels, self.resolution)
        self.seconds += time.perf_counter() - started
        return images


def coloured(labels: Tensor, resolution: int) -> Tensor:
    """uint8 (N, 3, resolution, resolution), all of it in memory of its own."""
    shades = labels.to(torch.uint8).view(-1, 1, 1, 1)
    return shades.expand(-1, 3, resolution, resolution).contiguous()


def long_tail_counts(num_classes: int, num_images: int) -> Tensor:
    """int64 (C,), falling exponentially, at least 1 each, about ``num_images`` in all."""
    shape = IMBALANCE_RATIO ** -torch.linspace(0, 1, num_classes, dtype=torch.float64)
    return (shape * num_images / shape.sum()).round().long().clamp(min=1)


def fake_images(num_classes: int, num_images: int, resolution: int) -> LabeledImages:
    labels = torch.repeat_interleave(long_tail_counts(num_classes, num_images))
    return LabeledImages(
        images=coloured(labels, resolution),
        labels=labels,
        groups=torch.full_like(labels, UNKNOWN_GROUP),
        class_names=tuple(str(label) for label in range(num_classes)),
        names=("",) * len(labels),
        source="colours",
    )


def measure_point(
    num_classes: int, num_images: int, *, resolution: int, batch_size: int
) -> dict[str, float]:
    """One point in this process: seconds, and memory in MiB."""
    _warm_up(resolution)
    gc.collect()
    before = resident_bytes()
    images = fake_images(num_classes, num_images, resolution)
    reset_peak()
    sampler = ColourSampler(num_classes, resolution)
    started = time.perf_counter()
    resolve_sampling_strategy("auto", images.class_counts, class_names=images.class_names)
    plan_seconds = time.perf_counter() - started
    started = time.perf_counter()
    dataset = SyntheticBalancedDataset(images, sampler, refresh=REFRESH)
    construct_seconds, drawing_seconds = time.perf_counter() - started, sampler.seconds
    first_seconds, _ = first_batch(dataset, batch_size, num_workers=0)
    first_2_seconds, worker_bytes = first_batch(dataset, batch_size, num_workers=2)
    started = time.perf_counter()
    dataset.set_epoch(1)
    set_epoch_seconds = time.perf_counter() - started
    first_batch(dataset, batch_size, num_workers=0)
    peak = peak_resident_bytes() - before
    slots = len(dataset) - len(images)
    data_bytes = images.images.nbytes + images.labels.nbytes + images.groups.nbytes
    pool_bytes = slots * (images.images[0].nbytes + 2 * images.labels.itemsize)
    return {
        "num_classes": num_classes,
        "num_images": len(images),
        "balanced_images": len(dataset),
        "plan_seconds": plan_seconds,
        "construct_seconds": construct_seconds,
        "drawing_seconds": drawing_seconds,
        "first_batch_seconds": first_seconds,
        "first_batch_2_workers_seconds": first_2_seconds,
        "set_epoch_seconds": set_epoch_seconds,
        "set_epoch_drawing_seconds": sampler.seconds - drawing_seconds,
        "data_mib": data_bytes / MIB,
        "pool_mib": pool_bytes / MIB,
        "peak_mib": peak / MIB,
        "worker_mib": worker_bytes / MIB,
    }


def _warm_up(resolution: int) -> None:
    """What is loaded at first use belongs to torch, not to a point."""
    dataset = SyntheticBalancedDataset(
        fake_images(2, 64, resolution), ColourSampler(2, resolution), refresh=REFRESH
    )
    for workers in (0, 2):
        first_batch(dataset, 4, num_workers=workers)


def first_batch(
    dataset: SyntheticBalancedDataset, batch_size: int, *, num_workers: int
) -> tuple[float, int]:
    """Seconds from making a loader to its first batch, and the largest worker's own bytes."""
    started = time.perf_counter()
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=num_workers)
    batches = iter(loader)
    next(batches)
    seconds = time.perf_counter() - started
    workers = multiprocessing.active_children()
    return seconds, max((private_bytes(worker.pid or 0) for worker in workers), default=0)


def points(classes: Sequence[int], images: Sequence[int]) -> list[tuple[int, int]]:
    """(classes, images) of both series and of the largest of both, none twice."""
    series = [(n, FIXED_IMAGES) for n in classes] + [(FIXED_CLASSES, n) for n in images]
    return list(dict.fromkeys([*series, (max(classes), max(images))]))


def run_point(task: str) -> None:
    """In the process of its own: prints the point as JSON."""
    given = json.loads(task)
    torch.set_num_threads(given["threads"])
    point = measure_point(
        given["num_classes"],
        given["num_images"],
        resolution=given["resolution"],
        batch_size=given["batch_size"],
    )
    print(json.dumps(point))


def summarise(rows: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """One entry a point: spread of the seconds and of the peak's share over the rounds, medians
    of the rest."""
    found: dict[tuple[float, float], list[Mapping[str, float]]] = {}
    for row in rows:
        found.setdefault((row["num_classes"], row["num_images"]), []).append(row)
    entries = []
    for _, same in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        entry: dict[str, Any] = {
            key: spread([row[key] for row in same])
            if key in SECONDS
            else spread([row[key] for row in same]).median
            for key in same[0]
        }
        shares = [row["peak_mib"] / (row["data_mib"] + row["pool_mib"]) for row in same]
        entries.append({**entry, "share": spread(shares)})
    return entries


def tables(entries: Sequence[Mapping[str, Any]]) -> str:
    """Two Markdown tables, of time and of memory."""
    names = [
        [
            f"{entry['num_classes']:,.0f}",
            f"{entry['num_images']:,.0f}",
            f"{entry['balanced_images']:,.0f}",
        ]
        for entry in entries
    ]
    times = [[f"{entry[key]:.3f}" for key in SECONDS] for entry in entries]
    memory = [
        [
            f"{entry['data_mib']:,.1f}",
            f"{entry['pool_mib']:,.1f}",
            f"{entry['peak_mib']:,.1f}",
            f"{entry['share']:.3f}",
            "met" if entry["share"].high <= MOST_MEMORY else "missed",
            f"{entry['worker_mib']:,.1f}",
        ]
        for entry in entries
    ]
    sizes = ["classes", "real images", "balanced"]
    seconds = ["plan, s", "construct, s", "of it drawing", "first batch, s"]
    seconds += ["with 2 workers, s", "set_epoch, s", "of it drawing"]
    mib = ["data, MiB", "pool, MiB", "peak, MiB", "peak / (data + pool)"]
    mib += [f"aim at most {MOST_MEMORY:g}", "a worker's own, MiB"]
    return (
        markdown_table([*sizes, *seconds], _joined(names, times))
        + "\n"
        + markdown_table([*sizes, *mib], _joined(names, memory))
    )


def _joined(left: list[list[str]], right: list[list[str]]) -> list[list[str]]:
    return [[*a, *b] for a, b in zip(left, right, strict=True)]


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES)
    parser.add_argument("--resolution", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder for scaling.json and scaling.md")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.point:
        run_point(options.point)
        return
    if options.rounds < 1:
        raise SignforgeError("--rounds must be at least 1.")
    torch.set_num_threads(options.threads)
    origin = provenance(command_line(__file__, argv))
    wanted, rows = points(options.classes, options.images), []
    for number in range(options.rounds):
        for num_classes, num_images in rotated(wanted, number):
            point = f"{num_images:,} images of {num_classes:,} classes"
            print(
                f"  round {number + 1} of {options.rounds}: {point} ...",
                file=sys.stderr,
                flush=True,
            )
            task = {
                "num_classes": num_classes,
                "num_images": num_images,
                "resolution": options.resolution,
                "batch_size": options.batch_size,
                "threads": options.threads,
            }
            rows.append(measure_in_own_process(__file__, task, point))
    text = provenance_text(origin) + (
        f"\n{options.resolution} pixels; batches of {options.batch_size}; refresh {REFRESH:g}; "
        f"{options.threads} threads; n = {options.rounds} rounds, times and shares are their "
        f"median with the smallest and the largest.\n\n{tables(summarise(rows))}"
    )
    print(text)
    if options.out:
        write_json(options.out / "scaling.json", {"origin": origin, "rows": rows})
        (options.out / "scaling.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(run_script(main))
