r"""What each part of the GAN's recipe is worth, one change at a time.

    python benchmarks/gan_ablation.py --data GTSRB --config gtsrb_cpu --kimg 90 --out runs/ablation
    python benchmarks/gan_ablation.py --report --out runs/ablation

Every variant changes the config's recipe in one place and trains from scratch for --kimg, with
the learning rates falling over the second half. One judge, trained on the real training split
alone, measures its EMA generator against the validation split; the test split is not touched.
Rows that --out has already are not made again, and an interrupted training goes on. A second
process may work on other --variants in the same folder once the judge is there. The recipe with
several --seeds shows what a difference of one seed is worth.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from judging import announce, judge_line, load_or_train_judge, origin, trained_gan
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from records import append_row, markdown_table, provenance_text, read_rows, run_script

from signforge.benchmark.plots import COLORS
from signforge.config import ClassifierConfig, GanConfig
from signforge.config_file import load_config, parse_override
from signforge.data.prepare import load_prepared_splits
from signforge.errors import SignforgeError
from signforge.evaluate.fidelity import fidelity_report
from signforge.files import write_atomically

SAMPLES_SEED = 7
VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "without guide": {"guide_weight": 0.0},
    "guide weight 0.3": {"guide_weight": 0.3},
    "guide margin 0": {"guide_margin": 0.0},
    "augment color": {"augment": ["color"]},
    "augment translation": {"augment": ["translation"]},
    "augment geometric": {"augment": ["geometric"]},
    "augment cutout": {"augment": ["cutout"]},
    "augment color, translation on 20 %": {
        "augment": ["color", "translation"],
        "augment_probability": 0.2,
    },
    "R1 gamma 0.1": {"r1_gamma": 0.1},
    "R1 gamma 10": {"r1_gamma": 10.0},
    "relativistic, R1 and R2 gamma 0.1": {"loss": "relativistic", "r1_gamma": 0.1},
    "hinge, spectral norm, no R1": {"loss": "hinge", "spectral_norm": True, "r1_gamma": 0.0},
    "hinge, spectral norm, no R1, discriminator's learning rate 8e-4": {
        "loss": "hinge",
        "spectral_norm": True,
        "r1_gamma": 0.0,
        "discriminator_learning_rate": 8e-4,
    },
    "fakes drawn anew for the generator": {"fresh_fakes": True},
    "spectral norm beside R1": {"spectral_norm": True},
    "no class for the discriminator": {"projection_share": 0.0},
    "LeCam 0.1": {"lecam_weight": 0.1},
    "gSR 0.5": {"gsr_weight": 0.5},
    "discriminator dropout 0.2": {"discriminator_dropout": 0.2},
    "empirical class prior": {"class_prior": "empirical"},
    "tempered class prior": {"class_prior": "tempered"},
    "class prior from empirical to uniform over 30 kimg": {"class_prior_warmup_kimg": 30.0},
    "class condition fades in over 30 kimg": {"conditioning_warmup_kimg": 30.0},
    "no class below 8x8": {"class_from_resolution": 8},
    "no class below 16x16": {"class_from_resolution": 16},
    "resize + convolution": {"upsample": "resize"},
    "learning rates 2e-4": {
        "generator_learning_rate": 2e-4,
        "discriminator_learning_rate": 2e-4,
    },
    "learning rates 8e-4": {
        "generator_learning_rate": 8e-4,
        "discriminator_learning_rate": 8e-4,
    },
    "discriminator's learning rate 8e-4": {"discriminator_learning_rate": 8e-4},
    "generator's learning rate 8e-4": {"generator_learning_rate": 8e-4},
    "EMA half-life 2 kimg": {"ema_halflife_kimg": 2.0},
    "EMA half-life 20 kimg": {"ema_halflife_kimg": 20.0},
    "base channels 48": {"base_channels": 48},
    "base channels 96": {"base_channels": 96},
    "batch 32": {"batch_size": 32},
    "batch 128": {"batch_size": 128},
}


def variant_config(base: GanConfig, name: str, kimg: float, seed: int) -> GanConfig:
    """``base`` for ``kimg`` with the changes of the variant; raises SignforgeError for no such."""
    if name not in VARIANTS:
        raise SignforgeError(f"No variant {name!r}; there are: {', '.join(VARIANTS)}.")
    length = {
        "total_kimg": kimg,
        "learning_rate_decay_from_kimg": kimg / 2,
        "samples_every_kimg": kimg,
        "seed": seed,
    }
    return GanConfig.model_validate({**base.model_dump(), **length, **VARIANTS[name]})


HEADER = (
    "variant",
    "seed",
    "kimg",
    "img/s",
    "fd / floor",
    "KID x 1000",
    "agreement",
    "worst class",
)
PANELS: tuple[tuple[str, Callable[[Mapping[str, Any]], float], str], ...] = (
    ("Frechet distance / real floor", lambda row: row["fd_ratio"], "log"),
    (
        "samples taken for another class, %",
        lambda row: 100 * (1 - row["macro_label_agreement"]),
        "log",
    ),
    (
        "the same, worst class, %",
        lambda row: 100 * (1 - row["worst_class_label_agreement"]),
        "linear",
    ),
)
"""Title, value and scale of an axis; less is better on all."""
RECIPE = "recipe"


def ablation_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One line a variant and seed: short trainings first, and of these the smallest distance."""
    cells = [
        (
            row["variant"],
            str(row["gan"]["seed"]),
            f"{row['seen_kimg']:.0f}",
            f"{1000 * row['seen_kimg'] / row['gan_seconds']:.0f}",
            f"{row['fd_ratio']:.2f}",
            f"{1000 * row['kid']:.1f}",
            f"{100 * row['macro_label_agreement']:.1f} %",
            f"{row['worst_class']}: {100 * row['worst_class_label_agreement']:.0f} %",
        )
        for row in sorted(rows, key=lambda row: (row["kimg"], row["fd_ratio"]))
    ]
    return markdown_table(HEADER, cells)


def report(out: Path) -> str:
    """Writes table.md, and ablation-KIMG.png for every length, from OUT/rows.jsonl.

    Returns the table. Raises SignforgeError where rows come from different judges.
    """
    rows = read_rows(out / "rows.jsonl")
    judge, table = judge_line(rows, "extractor_sha256"), ablation_table(rows)
    origins = {(row["command"], row["commit"]): provenance_text(row) for row in rows}
    text = "\n".join([table, f"{judge}\n", *origins.values()])
    write_atomically(out / "table.md", text.encode())
    for kimg in sorted({row["kimg"] for row in rows}):
        of_length = [row for row in rows if row["kimg"] == kimg]
        plot(of_length).savefig(out / f"ablation-{kimg:g}kimg.png", dpi=120)
    return table


def plot(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """A panel a measure, a dot a run, the smallest distance on top; a band spans the recipe's."""
    mean_distance = {
        name: statistics.fmean(row["fd_ratio"] for row in rows if row["variant"] == name)
        for name in {row["variant"] for row in rows}
    }
    names = sorted(mean_distance, key=lambda name: -mean_distance[name])
    figure = Figure(figsize=(12, 1.2 + 0.24 * len(names)), layout="constrained")
    all_axes = figure.subplots(1, len(PANELS), sharey=True)
    for axes, (title, value, scale) in zip(all_axes, PANELS, strict=True):
        axes.set_xscale(scale)
        if scale == "log":
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _position: f"{tick:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        of_recipe = [value(row) for row in rows if row["variant"] == RECIPE]
        if of_recipe:
            axes.axvspan(min(of_recipe), max(of_recipe), color=COLORS[0], alpha=0.15, linewidth=0)
        for row in rows:
            color = COLORS[0] if row["variant"] == RECIPE else COLORS[1]
            axes.plot(value(row), names.index(row["variant"]), "o", color=color)
        axes.set_xlabel(title)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
    all_axes[0].set_yticks(range(len(names)), names)
    return figure


def main(argv: Sequence[str]) -> None:
    """Trains and measures every variant that --out has no row of."""
    options = _parser().parse_args(argv)
    if options.report:
        print(report(options.out), end="")
        return
    if options.data is None:
        raise SignforgeError("Give --data, or --report.")
    config = load_config(
        options.config, [*map(parse_override, options.set), ("data.source", options.data)]
    )
    wanted = [(name, seed) for seed in options.seeds for name in options.variants or VARIANTS]
    configs = {key: variant_config(config.gan, key[0], options.kimg, key[1]) for key in wanted}

    splits = load_prepared_splits(config.data)
    judge = load_or_train_judge(
        options.judge or options.out / "judge",
        splits.train,
        config=ClassifierConfig(name=options.judge_classifier, device=config.gan.device),
        steps=options.judge_steps,
        track=announce,
    )
    path = options.out / "rows.jsonl"
    for (name, seed), gan in configs.items():
        # Read anew each time: another process may work on other variants in the same folder.
        rows = read_rows(path) if path.exists() else []
        made = ((row["variant"], row["gan"]["seed"], row["kimg"]) for row in rows)
        if (name, seed, options.kimg) in made:
            continue
        run = options.out / f"{options.kimg:g}kimg" / f"{name.replace(' ', '_')}-{seed}"
        sampler = trained_gan(gan, splits.train, run)
        measured = fidelity_report(sampler, judge, splits.val, splits.train, seed=SAMPLES_SEED)
        row = {
            "variant": name,
            "kimg": options.kimg,
            "seen_kimg": sampler.card.seen_kimg,
            "gan_seconds": sampler.card.seconds,
            **measured.as_dict(),
            "gan": gan.model_dump(mode="json"),
            **origin(__file__, argv),
        }
        append_row(path, row)
    print(report(options.out), end="")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="as for signforge train-cgan")
    parser.add_argument("--report", action="store_true", help="table and plots of what is in --out")
    parser.add_argument("--config", default="gtsrb_cpu", help="preset or YAML file: the recipe")
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--kimg", type=float, default=90.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variants", nargs="+", help=f"of: {', '.join(VARIANTS)}")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--judge", type=Path, help="folder of the judge (default: OUT/judge)")
    parser.add_argument("--judge-classifier", default="resnet18")
    parser.add_argument("--judge-steps", type=int, default=800)
    return parser


if __name__ == "__main__":
    sys.exit(run_script(main))
