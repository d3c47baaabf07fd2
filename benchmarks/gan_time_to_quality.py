"""How good samples are after 5, 10, 20 and 30 minutes of training: ours and what others do.

    python benchmarks/gan_time_to_quality.py --method ours --data GTSRB --out ttq --cas-steps 600
    (the same with --method plain, acgan, mimicry, and with further --seed)
    python benchmarks/gan_time_to_quality.py --report --out ttq

One judge for all, trained once on the real training split and kept in --judge. Nothing sees the
test split. Minutes are wall-clock of training alone; run one method at a time on an idle machine.
``plain`` and ``acgan`` run in a loop as fast as ours; ``mimicry`` runs as it was published.
"""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from baselines.acgan import Acgan
from baselines.method import Method
from baselines.mimicry_pd import MimicryPd
from baselines.ours import Ours
from baselines.plain_cdcgan import PlainConditionalDcgan
from judging import judge_line, load_or_train_judge
from matplotlib.figure import Figure
from quality import accuracy_of_real, measure_quality
from records import (
    append_row,
    command_line,
    markdown_table,
    provenance,
    provenance_text,
    read_rows,
    run_script,
)

from signforge.benchmark.plots import COLORS
from signforge.config import Config
from signforge.config_file import load_config, parse_override
from signforge.data.images import LabeledImages
from signforge.data.prepare import load_prepared_splits
from signforge.device import resolve_device
from signforge.errors import SignforgeError
from signforge.gan.run import save_sample_grid
from signforge.progress import no_progress

LABELS = {
    "real": "real training images",
    "ours": "signforge",
    "plain": "plain conditional DCGAN (BCE)",
    "acgan": "ACGAN",
    "mimicry": "torch-mimicry cGAN-PD",
}
METHODS = ("ours", "plain", "acgan", "mimicry")
PANELS = (
    ("macro_label_agreement", "label agreement, %", 100.0),
    ("fd_ratio", "Frechet distance / real floor", 1.0),
    ("cas", "classification accuracy score, %", 100.0),
)


def build_method(name: str, config: Config, train: LabeledImages, seed: int, run: Path) -> Method:
    """``name`` is one of METHODS; only ours writes into ``run``."""
    device = resolve_device(config.gan.device)
    if name == "ours":
        return Ours(config.gan.model_copy(update={"seed": seed}), train, run)
    if name == "plain":
        return PlainConditionalDcgan(train, seed=seed, device=device)
    if name == "acgan":
        return Acgan(train, seed=seed, device=device)
    return MimicryPd(train, seed=seed, device=device)


def train_and_measure(options: argparse.Namespace, argv: Sequence[str]) -> None:
    """Appends a row to OUT/rows.jsonl at every mark and writes a grid of samples beside it."""
    marks = [mark for mark in sorted(set(options.marks)) if mark <= options.minutes]
    if not marks:
        raise SignforgeError("--marks has no mark within --minutes.")
    run = options.out / f"{options.method}-seed{options.seed}"
    if run.exists():
        raise SignforgeError(f"{run} exists already; delete it, or give another --out or --seed.")
    overrides = [parse_override(text) for text in options.set]
    overrides += [("data.source", options.data), ("gan.max_minutes", options.minutes)]
    config = load_config(options.config, overrides)
    splits = load_prepared_splits(config.data)
    origin = provenance(command_line(__file__, argv))
    method = build_method(options.method, config, splits.train, options.seed, run)
    run.mkdir(parents=True)

    rows = options.out / "rows.jsonl"
    judge = load_or_train_judge(
        options.judge or options.out / "judge",
        splits.train,
        config=config.classifier,
        steps=config.benchmark.extractor_steps,
        track=no_progress,
    )
    if options.cas_steps:
        _measure_real_once(rows, config, splits, options.cas_steps, origin)
    for mark in marks:
        method.train_until(mark * 60)
        sampler = method.sampler()
        save_sample_grid(run / f"samples-{mark:g}min.png", sampler)
        quality = measure_quality(sampler, judge, config, splits, options.cas_steps)
        row = {
            "method": options.method,
            "seed": options.seed,
            "mark_minutes": mark,
            "train_seconds": round(method.seconds, 1),
            "seen_images": method.seen_images,
            "threads": torch.get_num_threads(),
            **quality,
            "origin": origin,
        }
        append_row(rows, row)
        print(markdown_table(HEADER, [table_row([row])]))


def _measure_real_once(
    path: Path, config: Config, splits: Any, cas_steps: int, origin: Mapping[str, Any]
) -> None:
    """The ceiling of the classification accuracy score: the same steps on real images."""
    if path.exists():
        known = [(row["method"], row["cas_steps"]) for row in read_rows(path)]
        if ("real", cas_steps) in known:
            return
    accuracy = accuracy_of_real(config, splits, cas_steps)
    append_row(
        path, {"method": "real", "cas": accuracy, "cas_steps": cas_steps, "origin": dict(origin)}
    )


HEADER = (
    "method",
    "minutes",
    "seeds",
    "kimg",
    "label agreement, %",
    "worst class, %",
    "FD / floor",
    "CAS, %",
)


def table_row(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Mean over the seeds of one method at one mark."""

    def mean(key: str, scale: float, digits: int) -> str:
        values = [row[key] for row in rows]
        if any(value is None for value in values):
            return "-"
        return f"{statistics.fmean(values) * scale:.{digits}f}"

    return [
        LABELS[rows[0]["method"]],
        f"{rows[0]['mark_minutes']:g}",
        str(len(rows)),
        mean("seen_images", 1e-3, 0),
        mean("macro_label_agreement", 100, 1),
        mean("worst_class_label_agreement", 100, 1),
        mean("fd_ratio", 1, 2),
        mean("cas", 100, 1),
    ]


def grouped(
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, dict[float, list[Mapping[str, Any]]]]:
    """{method: {minutes: rows of all seeds}}, in the order of METHODS and of time."""
    measured = [row for row in rows if row["method"] != "real"]
    found: dict[str, dict[float, list[Mapping[str, Any]]]] = {}
    for name in METHODS:
        of_method = [row for row in measured if row["method"] == name]
        for mark in sorted({row["mark_minutes"] for row in of_method}):
            same = [row for row in of_method if row["mark_minutes"] == mark]
            found.setdefault(name, {})[mark] = same
    return found


def report(out: Path) -> str:
    """Writes report.md and report.png from OUT/rows.jsonl; returns the Markdown.

    Raises SignforgeError where there is no row yet, or rows come from different judges.
    """
    rows = read_rows(out / "rows.jsonl")
    groups = grouped(rows)
    if not groups:
        raise SignforgeError(f"{out / 'rows.jsonl'} has no row of a method yet.")
    lines = [table_row(same) for marks in groups.values() for same in marks.values()]
    judge = judge_line([row for row in rows if row["method"] != "real"], "judge_sha256")
    text = f"{markdown_table(HEADER, lines)}\n{judge} "
    real = [row for row in rows if row["method"] == "real"]
    text += "".join(
        f"Trained on real images for {row['cas_steps']} steps: {row['cas']:.1%}. " for row in real
    )
    origins = (row["origin"] for row in rows)
    calls = {(origin["command"], origin["commit"]): provenance_text(origin) for origin in origins}
    text += "\n\n" + "\n".join(calls.values())
    (out / "report.md").write_text(text, encoding="utf-8")
    plot(groups, real).savefig(out / "report.png", dpi=120)
    return text


def plot(
    groups: Mapping[str, Mapping[float, Sequence[Mapping[str, Any]]]],
    real: Sequence[Mapping[str, Any]],
) -> Figure:
    """One panel a measure over minutes; a line is the mean of the seeds, a band their range."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, (key, title, scale) in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        for name, marks in groups.items():
            points = [
                (mark, [scale * row[key] for row in rows])
                for mark, rows in marks.items()
                if all(row[key] is not None for row in rows)
            ]
            if not points:
                continue
            minutes = [mark for mark, _ in points]
            color = COLORS[METHODS.index(name)]
            means = [statistics.fmean(values) for _, values in points]
            axes.plot(minutes, means, marker="o", color=color, label=LABELS[name])
            low, high = [min(v) for _, v in points], [max(v) for _, v in points]
            axes.fill_between(minutes, low, high, color=color, alpha=0.2, linewidth=0)
        if key == "cas":
            for row in real:
                axes.axhline(scale * row["cas"], color="0.4", linestyle=":", linewidth=1)
        if key == "fd_ratio":
            axes.set_yscale("log")
            axes.axhline(1.0, color="0.4", linestyle=":", linewidth=1)
        else:
            axes.set_ylim(0, 100)
        axes.set_xlabel("minutes of training")
        axes.set_title(title)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--report", action="store_true", help="table and plot of what is in --out")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--marks", type=_minutes, default=[5.0, 10.0, 20.0, 30.0])
    parser.add_argument("--data", default="demo", help="as for signforge train-cgan")
    parser.add_argument("--config", default="gtsrb_cpu", help="preset or YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", type=Path, help="folder of the judge; default OUT/judge")
    parser.add_argument("--cas-steps", type=int, default=0, help="0 leaves the score out")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    if options.report:
        print(report(options.out))
        return
    if options.method is None:
        raise SignforgeError("Give --method, or --report.")
    if options.threads:
        torch.set_num_threads(options.threads)
    train_and_measure(options, argv)


def _minutes(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


if __name__ == "__main__":
    raise SystemExit(run_script(main))
