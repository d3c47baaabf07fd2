r"""Which batch, learning rate and how many steps suit the classifier, on real images alone?

    python benchmarks/classifier_tuning.py --data gtsrb --out tuning
    python benchmarks/classifier_tuning.py ... --learning-rates 0.001,0.002 --steps 1000 --seeds 2
    python benchmarks/classifier_tuning.py ... --batch-sizes 64,128 --steps 600
    python benchmarks/classifier_tuning.py --out tuning --tables          (no training)

Trains the arm `real` at every batch size, learning rate and length, and scores it on the
validation split; the test split is never used. What is chosen here is then the same for every arm
of a benchmark. Rows are kept in --out and never made twice; a second process may work in the same
folder.
"""

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import fmean

from judging import announce
from records import command_line, markdown_table, run_script, write_table

from signforge.benchmark.folder import Row
from signforge.benchmark.planning import real_trial
from signforge.benchmark.trials import Stage, run_trials
from signforge.config_file import load_config
from signforge.data.prepare import load_prepared_splits
from signforge.environment import describe_environment
from signforge.errors import SignforgeError


def tuning_table(rows: Sequence[Row]) -> str:
    """One line for each length, batch size and learning rate, mean over seeds, as Markdown."""
    lines = []
    for steps, batch, rate in sorted({_setting(row) for row in rows}):
        own = [row for row in rows if _setting(row) == (steps, batch, rate)]
        cells = [
            f"{100 * fmean(row[key] for row in own):.2f}"
            for key in ("macro_accuracy", "top1", "worst_class_recall")
        ]
        minutes = fmean(row["fit_seconds"] for row in own) / 60
        settings = [f"{steps:,}", str(batch), f"{rate:g}"]
        lines.append([*settings, *cells, str(len(own)), f"{minutes:.1f}"])
    settings = ["Steps", "Batch", "Learning rate"]
    header = [*settings, "Macro %", "Top-1 %", "Worst class %", "Seeds", "Minutes"]
    return markdown_table(header, lines)


def _setting(row: Row) -> tuple[int, int, float]:
    classifier = row["classifier"]
    return classifier["steps"], classifier["batch_size"], classifier["learning_rate"]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="the data source, as data.source")
    parser.add_argument("--config", default="gtsrb_cpu", help="preset or file; all else from here")
    parser.add_argument("--imbalance-ratio", type=float, help="as data.imbalance_ratio")
    parser.add_argument("--out", type=Path, required=True, help="folder of rows and table")
    parser.add_argument("--batch-sizes", default="128", help="comma-separated")
    parser.add_argument("--learning-rates", default="0.001,0.002,0.004", help="comma-separated")
    parser.add_argument("--steps", default="1000", help="comma-separated")
    parser.add_argument("--seeds", type=int, default=1, help="number of repetitions")
    parser.add_argument("--tables", action="store_true", help="only write the table anew")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    options = parse(argv)
    if options.tables:
        print(write_table(options.out, tuning_table))
        return
    if options.data is None:
        raise SignforgeError("Give --data, or --tables for the table alone.")
    given = {"data.source": options.data, "data.imbalance_ratio": options.imbalance_ratio}
    config = load_config(options.config, [(k, v) for k, v in given.items() if v is not None])
    splits = load_prepared_splits(config.data, track=announce)
    environment = describe_environment()
    trial = real_trial(splits.train)
    for seed in range(options.seeds):
        for steps, batch, rate in product(
            map(int, options.steps.split(",")),
            map(int, options.batch_sizes.split(",")),
            map(float, options.learning_rates.split(",")),
        ):
            update = {"steps": steps, "batch_size": batch, "learning_rate": rate}
            stage = Stage(
                splits.train,
                splits.val,
                config.classifier.model_copy(update=update),
                environment,
                command_line(__file__, argv),
            )
            run_trials([trial(seed)], stage, options.out, track=announce)
            print(write_table(options.out, tuning_table), flush=True)


if __name__ == "__main__":
    sys.exit(run_script(main))
