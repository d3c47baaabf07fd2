r"""What each part of the GAN's recipe is worth, one change at a time.

    python benchmarks/gan_ablation.py --data GTSRB --config gtsrb_cpu --kimg 90 --out runs/ablation

Every variant changes the config's recipe in one place and trains from scratch for --kimg, with
the learning rates falling over the second half. One judge, trained on the real training split
alone, measures its EMA generator against the validation split; the test split is not touched.
Rows that --out has already are not made again, and an interrupted training goes on. A second
process may work on other --variants in the same folder once the judge is there.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from judging import announce, load_or_train_judge, origin, trained_gan
from records import append_row, markdown_table, read_rows, run_script

from signforge.config import ClassifierConfig, GanConfig, load_config, parse_override
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


def ablation_table(rows: Sequence[dict[str, Any]]) -> str:
    """One line a variant and seed, as measured."""
    header = ("variant", "seed", "kimg", "img/s", "fd / floor", "agreement", "worst class")
    cells = [
        (
            row["variant"],
            str(row["gan"]["seed"]),
            f"{row['seen_kimg']:.0f}",
            f"{1000 * row['seen_kimg'] / row['gan_seconds']:.0f}",
            f"{row['fd_ratio']:.2f}",
            f"{100 * row['macro_label_agreement']:.1f} %",
            f"{row['worst_class']}: {100 * row['worst_class_label_agreement']:.0f} %",
        )
        for row in rows
    ]
    return markdown_table(header, cells)


def main(argv: Sequence[str]) -> None:
    """Trains and measures every variant that --out has no row of."""
    options = _parser().parse_args(argv)
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
        report = fidelity_report(sampler, judge, splits.val, splits.train, seed=SAMPLES_SEED)
        row = {
            "variant": name,
            "kimg": options.kimg,
            "seen_kimg": sampler.card.seen_kimg,
            "gan_seconds": sampler.card.seconds,
            **report.as_dict(),
            "gan": gan.model_dump(mode="json"),
            **origin(__file__, argv),
        }
        append_row(path, row)
    table = ablation_table(read_rows(path))
    write_atomically(options.out / "table.md", table.encode())
    print(table, end="")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="as for signforge train-cgan")
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
