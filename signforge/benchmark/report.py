"""A finished (or cut short) benchmark as tables, Markdown, CSV and plots.

Everything is made from the files of the run directory, so a report can be made again at any time.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from signforge.benchmark.folder import read_json, read_rows
from signforge.benchmark.plots import save_class_balance, save_per_class_gain
from signforge.benchmark.statistics import Gain
from signforge.benchmark.summary import ArmSummary, Spread, Summary, summarise_run
from signforge.benchmark.verdict import points
from signforge.config import Config, load_config
from signforge.environment import hardware_line
from signforge.files import write_atomically

MISSING = "-"


@dataclass(frozen=True)
class Table:
    """Cells as they are shown; the terminal, Markdown and HTML draw the same one.

    text_columns: how many columns, from the left, are words; the rest are figures.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1


def write_report(run_dir: Path) -> Summary:
    """Writes results.md, results.csv, per_class_gain.png and class_balance.png.

    Raises SignforgeError where the folder holds no finished row.
    """
    summary = summarise_run(run_dir)
    fidelity_file = run_dir / "fidelity.json"
    markdown = report_markdown(
        summary,
        config=load_config(run_dir / "config.yaml"),
        dataset=read_json(run_dir / "dataset.json"),
        environment=read_json(run_dir / "environment.json"),
        fidelity=read_json(fidelity_file) if fidelity_file.exists() else None,
        finished_at=max(row["finished_at"] for row in read_rows(run_dir)),
    )
    save_class_balance(run_dir / "class_balance.png", summary)
    save_per_class_gain(run_dir / "per_class_gain.png", summary)
    write_atomically(run_dir / "results.csv", results_csv(summary).encode())
    write_atomically(run_dir / "results.md", markdown.encode())
    return summary


def arms_table(summary: Summary) -> Table:
    """One line an arm: accuracies in percent, gains in points with 95 % intervals, costs."""
    header = [
        "arm",
        "seeds",
        "top-1 %",
        "macro %",
        "worst class %",
        "many %",
        "medium %",
        "few %",
        "macro gain over real",
        f"macro gain over {summary.best_cheap}",
        "GAN s",
        "classifier s",
    ]
    rows = []
    for arm in summary.arms:
        spreads = (
            arm.top1,
            arm.macro_accuracy,
            arm.worst_class_recall,
            arm.many,
            arm.medium,
            arm.few,
        )
        rows.append(
            [
                arm.arm,
                str(len(arm.seeds)),
                *(_percent(spread) for spread in spreads),
                _gain(arm.over_real),
                _gain(arm.over_cheap),
                f"{arm.gan_seconds:,.0f}",
                f"{arm.classifier_seconds:,.0f}",
            ]
        )
    keep = [
        column
        for column in range(len(header))
        if column < 2 or any(row[column] != MISSING for row in rows)
    ]
    return Table(
        title="Arms",
        header=tuple(header[column] for column in keep),
        rows=tuple(tuple(row[column] for column in keep) for row in rows),
    )


def class_table(summary: Summary) -> Table:
    """One line a class, rarest first: recall of each arm and gains over ``real``."""
    gaining = [arm for arm in summary.arms if arm.class_gains]
    by_size = sorted(range(len(summary.class_names)), key=lambda c: (summary.train_counts[c], c))
    return Table(
        title="Recall of each class",
        header=(
            "class",
            "train images",
            "test images",
            *(f"{arm.arm} %" for arm in summary.arms),
            *(f"{arm.arm} over real" for arm in gaining),
        ),
        rows=tuple(
            (
                f"{label} {summary.class_names[label]}",
                f"{summary.train_counts[label]:,}",
                f"{summary.test_counts[label]:,}",
                *(f"{100 * arm.per_class_recall[label]:.1f}" for arm in summary.arms),
                *(_gain(arm.class_gains[label]) for arm in gaining),
            )
            for label in by_size
        ),
    )


def fidelity_table(fidelity: Mapping[str, Any], class_names: Sequence[str]) -> Table:
    """Samples beside the best that real images reach; ``fidelity`` as in fidelity.json."""
    worst = class_names[fidelity["worst_class"]]
    ratio = fidelity["fd_ratio"]
    return Table(
        title="Fidelity",
        header=("metric", "synthetic", "real against real"),
        rows=(
            (fidelity["metric_name"], f"{fidelity['fd']:.3f}", f"{fidelity['fd_floor']:.3f}"),
            ("Frechet distance / floor", MISSING if ratio is None else f"{ratio:.2f}", "1.00"),
            ("KID x 1000", f"{1e3 * fidelity['kid']:.2f}", f"{1e3 * fidelity['kid_floor']:.2f}"),
            (
                "label agreement, mean over classes %",
                f"{100 * fidelity['macro_label_agreement']:.1f}",
                f"{100 * fidelity['real_label_agreement']:.1f}",
            ),
            (
                f"label agreement of the worst class ({worst}) %",
                f"{100 * fidelity['worst_class_label_agreement']:.1f}",
                MISSING,
            ),
        ),
    )


def table_markdown(table: Table) -> str:
    """A pipe table, without its title."""
    rules = ["---" if n < table.text_columns else "---:" for n in range(len(table.header))]
    lines = [table.header, tuple(rules), *table.rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def results_csv(summary: Summary) -> str:
    """One line an arm, shares as plain numbers, empty where there is none."""
    lines = []
    for arm in summary.arms:
        line: dict[str, Any] = {"arm": arm.arm, "seeds": len(arm.seeds)}
        for key in ("top1", "macro_accuracy", "worst_class_recall", "many", "medium", "few"):
            spread: Spread | None = getattr(arm, key)
            line[key] = spread.mean if spread else None
            line[f"{key}_std"] = spread.std if spread else None
        for key, gain in (("over_real", arm.over_real), ("over_cheap", arm.over_cheap)):
            line[f"macro_gain_{key}"] = gain.mean if gain else None
            line[f"macro_gain_{key}_low"] = gain.low if gain else None
            line[f"macro_gain_{key}_high"] = gain.high if gain else None
        line["best_cheap"] = summary.best_cheap
        line["gan_seconds"] = arm.gan_seconds
        line["classifier_seconds"] = arm.classifier_seconds
        lines.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def report_markdown(
    summary: Summary,
    *,
    config: Config,
    dataset: Mapping[str, Any],
    environment: Mapping[str, Any],
    fidelity: Mapping[str, Any] | None,
    finished_at: str,
) -> str:
    """results.md, verdict first; the mappings are those of the run directory's JSON files."""
    notes = [f"- {note}" for note in dataset["notes"]]
    parts = [
        f"# {config.classifier.name} on {dataset['source']}",
        summary.verdict,
        table_markdown(arms_table(summary)),
        "Mean ± standard deviation over seeds. Gains are in percentage points of macro accuracy "
        "(mean per-class recall), paired by seed and test image, with 95 % intervals. Many, medium "
        "and few are classes with more than 100, 20 to 100 and fewer than 20 training images.",
        "![Gain of each class](per_class_gain.png)",
        "![Images of each class before and after balancing](class_balance.png)",
        "## Recall of each class",
        table_markdown(class_table(summary)),
        "## Fidelity of the synthetic images",
        _fidelity(fidelity, dataset),
        "## Protocol",
        "\n".join([*_protocol(config, dataset, summary.arms), *notes]),
        "## Environment",
        "\n".join(_environment(environment, finished_at)),
    ]
    return "\n\n".join(parts) + "\n"


def _protocol(config: Config, dataset: Mapping[str, Any], arms: Sequence[ArmSummary]) -> list[str]:
    splits, classifier = dataset["splits"], config.classifier
    train = splits["train"]["class_counts"]
    lines = [
        f"- {len(dataset['class_names'])} classes at {dataset['resolution']}x"
        f"{dataset['resolution']}; {_images(splits, 'train')} to train on (imbalance ratio "
        f"{max(train) / min(train):.1f}), {_images(splits, 'val')} for validation, "
        f"{_images(splits, 'test')} for the test, which each classifier sees once, at its end.",
        f"- Every arm: {classifier.name}{' (pretrained)' if classifier.pretrained else ''}, "
        f"{classifier.steps:,} steps of {classifier.batch_size} images, AdamW at "
        f"{classifier.learning_rate:g}, augmentation `{classifier.augment}` without flips; for one "
        "seed the same initial weights and seed of batch order in every arm.",
        "- Intervals: test images resampled within their class "
        f"({config.benchmark.bootstrap_resamples:,} resamples), both arms alike, and Student's t "
        "for the few seeds; never narrower than a paired t-test over seeds.",
        "- The verdict puts two remedies to the test, the best without and the best with a "
        "generator, chosen by macro accuracy on validation.",
    ]
    seeds = {arm.arm: arm.seeds for arm in arms}
    planned = config.benchmark.seeds
    short = [f"{arm} {len(found)} of {planned}" for arm, found in seeds.items()]
    missing = [arm for arm in config.benchmark.arms if arm not in seeds]
    if missing or any(len(found) < planned for found in seeds.values()):
        unfinished = [*short, *(f"{arm} 0 of {planned}" for arm in missing)]
        lines.append(f"- Not finished; seeds done: {', '.join(unfinished)}.")
    hashes = ", ".join(f"{name} `{split['fingerprint'][:12]}`" for name, split in splits.items())
    generator = dataset["generator"]
    if generator:
        hashes += f", generator `{generator['fingerprint'][:12]}`"
    lines.append(f"- SHA-256: {hashes}.")
    return lines


def _environment(environment: Mapping[str, Any], finished_at: str) -> list[str]:
    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items() if v)
    lines = [f"- {hardware_line(environment)}; {versions}.", f"- Last row finished {finished_at}."]
    if environment["commit"]:
        dirty = " with uncommitted changes" if environment["dirty"] else ""
        lines.append(f"- Commit `{environment['commit']}`{dirty}.")
    if environment.get("command"):
        lines.append(f"- To repeat: `{environment['command']}`")
    return lines


def _fidelity(fidelity: Mapping[str, Any] | None, dataset: Mapping[str, Any]) -> str:
    if fidelity is not None:
        return (
            table_markdown(fidelity_table(fidelity, dataset["class_names"]))
            + f"\n\n{fidelity['n']:,} samples against as many validation images, with "
            "their labels; the floor is as many training images of other groups. Extractor: "
            f"{fidelity['extractor']}, trained on the training split alone, SHA-256 "
            f"`{fidelity['extractor_sha256'][:12]}`."
        )
    if dataset["generator"] is None:
        return "No generator took part."
    return "Not measured in this run."


def _images(splits: Mapping[str, Any], name: str) -> str:
    groups = splits[name]["groups"]
    signs = f" in {groups:,} groups" if groups else ""
    return f"{splits[name]['images']:,} images{signs}"


def _percent(spread: Spread | None) -> str:
    if spread is None:
        return MISSING
    deviation = "" if spread.std is None else f" ± {100 * spread.std:.2f}"
    return f"{100 * spread.mean:.2f}{deviation}"


def _gain(gain: Gain | None) -> str:
    if gain is None:
        return MISSING
    return f"{points(gain.mean)} ({points(gain.low)} to {points(gain.high)})"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
