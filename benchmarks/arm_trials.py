r"""Any arms of the benchmark, scored on the validation split: for trying ideas without the test.

    python benchmarks/arm_trials.py --data gtsrb --run runs/gan --out trials \
        --arms real,logit_adjustment,synthetic_tenth_relit+logit_adjustment --seeds 3
    python benchmarks/arm_trials.py --out trials --tables          (no training)

Data, splits and settings are those of the run's own config.yaml, over which --set goes. Rows are
kept in --out and never made twice; a second process may work on other arms or seeds in the same
folder at the same time.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from judging import announce
from records import command_line, markdown_table, run_script, write_table

from signforge.benchmark.arm_selection import may_use_gate, needs_generator, select_arms
from signforge.benchmark.arms import Arm, ArmContext, ArmSetup
from signforge.benchmark.folder import Row
from signforge.benchmark.planning import refuse_other_images, shared_gate
from signforge.benchmark.trials import NO_RESULT_KEYS, Stage, Trial, run_trials
from signforge.config import Config
from signforge.config_file import load_config, parse_override
from signforge.data.prepare import load_prepared_splits
from signforge.environment import describe_environment
from signforge.errors import SignforgeError
from signforge.gan.sampler import GanSampler, load_sampler
from signforge.progress import Track

FIGURES = {
    "macro_accuracy": "Macro %",
    "top1": "Top-1 %",
    "worst_class_recall": "Worst class %",
    "many": "Many %",
    "medium": "Medium %",
    "few": "Few %",
}


def arm_trial(
    name: str, arm: Arm, seed: int, config: Config, sampler: GanSampler, stage: Stage, out: Path
) -> Trial:
    """One arm and seed. Its gate, if it may use one, is fitted once and kept in ``out``."""
    balance = config.balance
    gate = None
    if may_use_gate((name,)):
        gate = shared_gate(balance, config.classifier, stage.train, out, track=announce)
    settings: dict[str, Any] = {"balance": balance.model_dump(mode="json")}
    if needs_generator((name,)):
        settings["generator"] = sampler.fingerprint

    def build(seed: int, track: Track) -> ArmSetup:
        return arm(stage.train, ArmContext(seed, sampler, balance, track, gate))

    return Trial(name, seed, settings, build)


def trials_table(rows: Sequence[Row]) -> str:
    """One line for each arm and settings, mean and standard deviation over seeds, as Markdown.

    Settings that are not the same in all rows stand behind the arm.
    """
    # Two processes that made one trial at the same time made one seed.
    rows = list({row["identity"]: row for row in rows}.values())
    flat = [_flat_settings(row) for row in rows]
    every = sorted({key for settings in flat for key in settings})
    # An arm without a generator names none, which makes it no other setting.
    varied = [key for key in every if len({s[key] for s in flat if key in s}) > 1]
    of_line: dict[tuple[str, ...], list[Row]] = {}
    for row, settings in zip(rows, flat, strict=True):
        shown = [f"{key}={settings[key]}" for key in varied if key in settings]
        of_line.setdefault((row["arm"], *shown), []).append(row)
    lines = [
        [
            f"{name} ({', '.join(shown)})" if shown else name,
            *(_mean(own, key) for key in FIGURES),
            str(len(own)),
        ]
        for (name, *shown), own in of_line.items()
    ]
    return markdown_table(["Arm", *FIGURES.values(), "Seeds"], lines)


def _flat_settings(row: Row) -> dict[str, str]:
    """All that a row depends on besides arm and seed, as text."""
    sections = {"classifier": row["classifier"], "balance": row["settings"]["balance"]}
    flat = {
        f"{section}.{key}": json.dumps(value)
        for section, values in sections.items()
        for key, value in values.items()
        if key not in NO_RESULT_KEYS
    }
    if "generator" in row["settings"]:
        flat["generator"] = row["settings"]["generator"][:8]
    return flat | {"data": row["train_fingerprint"][:8]}


def _mean(rows: Sequence[Row], key: str) -> str:
    values = [100 * row[key] for row in rows if row[key] is not None]
    if not values:
        return ""
    spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{fmean(values):.2f}{spread}"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="the data source, as data.source")
    parser.add_argument("--run", type=Path, help="run directory of train-cgan")
    parser.add_argument("--arms", default="real,oversample,synthetic", help="comma-separated")
    parser.add_argument("--out", type=Path, required=True, help="folder of rows and table")
    parser.add_argument("--seeds", type=int, default=1, help="number of paired repetitions")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="section.key=value")
    parser.add_argument("--tables", action="store_true", help="only write the table anew")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    options = parse(argv)
    if options.tables:
        print(write_table(options.out, trials_table))
        return
    if options.data is None or options.run is None:
        raise SignforgeError("Give --data and --run, or --tables for the table alone.")
    arms = select_arms(options.arms.split(","))
    overrides = [("data.source", options.data), *map(parse_override, options.set)]
    config = load_config(options.run / "config.yaml", overrides)
    splits = load_prepared_splits(config.data, track=announce)
    sampler = load_sampler(options.run, config.gan.device)
    refuse_other_images(sampler, splits.train)
    stage = Stage(
        splits.train,
        splits.val,
        config.classifier,
        describe_environment(),
        command_line(__file__, argv),
    )
    make = partial(arm_trial, config=config, sampler=sampler, stage=stage, out=options.out)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name, arm in arms.items():
            run_trials([make(name, arm, seed)], stage, options.out, track=announce)
            print(write_table(options.out, trials_table), flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
