"""What a source holds: one JSON-ready report, the same in lines, and two pictures."""

from pathlib import Path
from typing import Any

from signforge.config import DataConfig
from signforge.data.charts import save_class_distribution, save_image_grid
from signforge.data.checks import inspect_splits
from signforge.data.images import LabeledSplits
from signforge.data.load import load_splits
from signforge.progress import Track, no_progress

GRID_COLUMNS = 12
LISTED = 10
"""Duplicates and unreadable files listed one by one; the JSON has all."""


def inspect_source(
    config: DataConfig, out: Path | None, *, track: Track = no_progress
) -> tuple[dict[str, Any], LabeledSplits]:
    """The report of ``inspect_splits``; with ``out`` also PNG files there, named in the report.

    class_distribution.png has one bar a class and split, samples.png real training images, one
    row a class as far as they fit.
    """
    splits = load_splits(config, track=track)
    report = inspect_splits(splits, config.source)
    if out is not None:
        counts = {
            name: split.class_counts for name, split in splits.named().items() if name != "val"
        }
        names = splits.train.class_names
        chart, grid = out / "class_distribution.png", out / "samples.png"
        save_class_distribution(chart, counts, names, f"Images a class: {config.source}")
        save_image_grid(grid, splits.train.examples(GRID_COLUMNS), list(names))
        report["files"] = [str(chart), str(grid)]
    return report, splits


def report_lines(report: dict[str, Any]) -> list[str]:
    """The report for people: totals, one line a class, then what is wrong."""
    ratio = report["imbalance_ratio"]
    lines = [
        f"{report['source']}: {report['num_classes']} classes at "
        f"{report['resolution']}x{report['resolution']}, imbalance ratio "
        f"{'undefined (a class has no image)' if ratio is None else f'{ratio:.1f}:1'}.",
        *(_split_line(name, split) for name, split in report["splits"].items()),
        _shot_line(report["shot_groups"]),
        "",
        *_class_table(report),
        "",
        *_duplicate_lines(report["duplicates"]),
    ]
    unreadable = report["unreadable"]
    lines.append(f"Unreadable files: {len(unreadable)}")
    lines += [f"  {sentence}" for sentence in unreadable[:LISTED]]
    lines += [f"Note: {note}" for note in report["notes"]]
    if "files" in report:
        lines.append(f"Pictures: {', '.join(report['files'])}")
    return lines


def _split_line(name: str, split: dict[str, Any]) -> str:
    groups = split["groups"]
    tracks = f"{groups:,} tracks" if groups else "tracks unknown"
    counts = split["class_counts"]
    return (
        f"{name}: {split['images']:,} images, {tracks}, {min(counts):,} to {max(counts):,} a class"
    )


def _shot_line(shot_groups: list[str]) -> str:
    many, medium, few = (shot_groups.count(group) for group in ("many", "medium", "few"))
    return (
        f"Training classes: {many} many (over 100 images), {medium} medium (20 to 100), "
        f"{few} few (under 20)."
    )


def _class_table(report: dict[str, Any]) -> list[str]:
    names, splits = report["class_names"], report["splits"]
    width = max(len(name) for name in ("class", *names))
    lines = [f"{'id':>4}  {'class':<{width}}" + "".join(f"{split:>8}" for split in splits)]
    for label, name in enumerate(names):
        counts = "".join(f"{split['class_counts'][label]:>8,}" for split in splits.values())
        lines.append(f"{label:>4}  {name:<{width}}{counts}")
    return lines


def _duplicate_lines(duplicates: dict[str, list[dict[str, Any]]]) -> list[str]:
    within, across = duplicates["within"], duplicates["across"]
    lines = [f"Duplicates within a split: {len(within)}"]
    lines += [
        f"  {entry['split']}, {_named(entry)}: {', '.join(entry['files'])}"
        for entry in within[:LISTED]
    ]
    lines.append(f"Duplicates across splits: {len(across)}")
    for entry in across[:LISTED]:
        places = "; ".join(f"{split} {', '.join(f)}" for split, f in entry["files"].items())
        lines.append(f"  {_named(entry)}: {places}")
    hidden = max(len(within) - LISTED, 0) + max(len(across) - LISTED, 0)
    if hidden:
        lines.append(f"  ... {hidden} more with --json")
    return lines


def _named(entry: dict[str, Any]) -> str:
    if entry["class"] is None:
        return f"classes {' and '.join(entry['classes'])}"
    return f"class {entry['class']}"
