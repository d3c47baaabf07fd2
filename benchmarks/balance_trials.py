r"""Does filling up rare classes help, with how many samples, and do the gate and the plan?

    python benchmarks/balance_trials.py --data GTSRB --run runs/gan --out trials --seeds 3
    python benchmarks/balance_trials.py ... --variants real,oversample,synthetic-1.0
    python benchmarks/balance_trials.py --out trials --tables          (no data, no training)

Every variant trains the same timm classifier for the same number of steps from the same weights
on the training split, and is scored on the validation split; the test split is never used. Data,
splits and classifier are those of the run's own config.yaml. All variants but "real" fill every
class up to the size of the largest ("auto"):

    real              the training images as they are
    oversample        real images repeated
    synthetic-F       samples of the generator, at most the share F of a class
    gated-T           samples that pass a ClassifierGate of threshold T
    refresh-R         synthetic-1.0 with the share R of the samples drawn anew each epoch (0.25
                      everywhere else); needs more than one epoch of steps
    plan              a BalancePlan made of real, oversample and --plan-from. It is chosen on one
                      half of the validation signs and scored on the other, and the other way
                      round, so that its figure owes nothing to the choice: two trainings a seed

Rows are kept in --out and never made twice; a second process may work on other variants or
seeds in the same folder at the same time. plan.yaml is the plan chosen on the whole validation
split, and table.md and classes.md hold the tables.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judging import announce
from records import command_line, provenance_text, run_script
from trial_tables import Validation, class_table, trials_table

from signforge.balance.decision import ValidationGroups
from signforge.balance.plan import BalancePlan
from signforge.balance.strategy import resolve_sampling_strategy
from signforge.benchmark.folder import Row, read_json, read_rows, write_json
from signforge.benchmark.planning import (
    oversample_trial,
    plan_from_rows,
    real_trial,
    refuse_other_images,
    shared_gate,
    synthetic_trial,
)
from signforge.benchmark.trials import (
    Stage,
    Trial,
    none_for_nan,
    run_trials,
    validation_groups,
)
from signforge.config import BalanceConfig, Config
from signforge.config_file import load_config
from signforge.data.prepare import load_prepared_splits
from signforge.environment import describe_environment
from signforge.errors import SignforgeError
from signforge.files import write_atomically
from signforge.gan.sampler import GanSampler, load_sampler
from signforge.seeds import derive_seed

FRACTIONS, THRESHOLDS, REFRESHES = (0.25, 0.5, 0.75, 1.0), (0.3, 0.5, 0.9), (0.0, 1.0)
HALVES_SEED = 3_000_003
VALIDATION, REAL_ACCEPTANCE = "validation.json", "real_acceptance.json"
HALVES = ("plan-0", "plan-1")
"""Plans by the half that they were chosen on; also the names of their rows and files."""


def balances(base: BalanceConfig) -> dict[str, BalanceConfig]:
    """What each variant that draws samples fills up to, and how."""
    ungated = base.model_copy(update={"gate_tau": 0.0})
    return {
        **{
            f"synthetic-{share:g}": ungated.model_copy(update={"max_synthetic_fraction": share})
            for share in FRACTIONS
        },
        **{f"gated-{tau:g}": base.model_copy(update={"gate_tau": tau}) for tau in THRESHOLDS},
        **{f"refresh-{r:g}": ungated.model_copy(update={"refresh": r}) for r in REFRESHES},
    }


VARIANTS = ("real", "oversample", *balances(BalanceConfig()), "plan")
DEFAULT_VARIANTS = tuple(name for name in VARIANTS if not name.startswith("refresh"))


class Trials:
    """The trials of every variant on one data set and generator, kept in one folder."""

    def __init__(
        self, config: Config, stage: Stage, sampler: GanSampler, options: argparse.Namespace
    ) -> None:
        self.config, self.stage, self.sampler = config, stage, sampler
        self.folder: Path = options.out
        self.plan_from: str = options.plan_from
        self.confidence: float = options.confidence
        self.seeds = range(options.first_seed, options.first_seed + options.seeds)
        self.balances = balances(config.balance)

    def run(self, variants: Sequence[str]) -> None:
        """Seed by seed, so that a run cut short has pairs; the plan, which needs all, last."""
        for_plan = ("real", "oversample", self.plan_from) if "plan" in variants else ()
        names = [name for name in VARIANTS if name in {*variants, *for_plan} - {"plan"}]
        for name in names:
            if name.startswith("refresh"):
                self.refuse_one_epoch(name)
        arms: dict[str, Callable[[int], Trial]] = {}
        rows = []
        for seed in self.seeds:
            for name in names:
                if name not in arms:  # not before: a gate is fitted for it
                    arms[name] = self.arm(name)
                rows += self.rows([arms[name](seed)])
        if not for_plan:
            return
        evidence = {
            role: [row for row in rows if row["arm"] == name]
            for role, name in zip(("real", "oversample", "synthetic"), for_plan, strict=True)
        }
        halves = group_halves(validation_groups(self.stage.val)[0])
        self.plan(evidence, None).save(self.folder / "plan.yaml")
        for half, name in enumerate(HALVES):
            plan = self.plan(evidence, halves == half)
            plan.save(self.folder / f"{name}.yaml")
            if plan.counts():  # else it is "real", which has been trained
                arm = self.arm(self.plan_from, plan=plan, shown_as=name)
                self.rows([arm(seed) for seed in self.seeds])

    def rows(self, trials: Sequence[Trial]) -> list[Row]:
        return run_trials(trials, self.stage, self.folder, on_row=tell, track=announce)

    def arm(
        self, name: str, *, plan: BalancePlan | None = None, shown_as: str | None = None
    ) -> Callable[[int], Trial]:
        train = self.stage.train
        if name == "real":
            return real_trial(train)
        if name == "oversample":
            return oversample_trial(train, self.config.balance)
        balance = self.balances[name]
        gate = shared_gate(balance, self.stage.classifier, train, self.folder, track=announce)
        if gate is not None:
            shares = none_for_nan(gate.real_acceptance)
            path = self.folder / REAL_ACCEPTANCE
            write_json(path, {**(read_json(path) if path.exists() else {}), name: shares})
        return synthetic_trial(train, self.sampler, balance, gate, plan=plan, name=shown_as or name)

    def plan(self, evidence: Mapping[str, Sequence[Row]], among: Any) -> BalancePlan:
        return plan_from_rows(
            evidence,
            self.stage,
            self.sampler,
            self.balances[self.plan_from],
            confidence=self.confidence,
            among=among,
        )

    def refuse_one_epoch(self, name: str) -> None:
        """A refresh that no second epoch sees would be trained for nothing."""
        balance = self.balances[name]
        train, config = self.stage.train, self.stage.classifier
        targets = resolve_sampling_strategy(
            balance.sampling_strategy, train.class_counts, class_names=train.class_names
        )
        steps = int(targets.sum()) // config.batch_size
        if config.steps <= steps:
            raise SignforgeError(
                f"{name} would be synthetic-1 over again: {config.steps} steps end within the "
                f"first epoch, which has {steps}; give --steps above that, or leave it out."
            )


def group_halves(groups: ValidationGroups) -> Any:
    """0 or 1 for each group, int64 (M,): in each class one half, at random; of an odd number the
    odd one falls to either half in turn."""
    halves = np.zeros(len(groups.labels), dtype=np.int64)
    longer = 0
    for label in np.unique(groups.labels):
        places = np.flatnonzero(groups.labels == label)
        rng = torch.Generator().manual_seed(derive_seed(HALVES_SEED, int(label)))
        order = torch.randperm(len(places), generator=rng).numpy()
        halves[places[order]] = (np.arange(len(places)) + longer) % 2
        longer = (longer + len(places)) % 2
    return halves


def tell(row: Row) -> None:
    minutes = (row["fit_seconds"] + row["setup_seconds"]) / 60
    print(
        f"{row['arm']}, seed {row['seed']}: macro {100 * row['macro_accuracy']:.2f} % "
        f"in {minutes:.1f} minutes",
        file=sys.stderr,
        flush=True,
    )


def open_folder(folder: Path, stage: Stage, sampler: GanSampler) -> None:
    """Writes what all rows have in common; raises where the folder has rows of something else."""
    groups, _ = validation_groups(stage.val)
    common = {
        "classifier": stage.classifier.model_dump(mode="json"),
        "generator_fingerprint": sampler.fingerprint,
        "train_fingerprint": stage.train.fingerprint,
        "val_fingerprint": stage.val.fingerprint,
        "class_names": list(stage.train.class_names),
        "train_counts": stage.train.class_counts.tolist(),
        "group_labels": groups.labels.tolist(),
        "group_sizes": groups.sizes.tolist(),
        "halves": group_halves(groups).tolist(),
    }
    path = folder / VALIDATION
    if path.exists():
        before = read_json(path)
        changed = [key for key, value in common.items() if before.get(key) != value]
        if changed:
            raise SignforgeError(
                f"{folder} holds trials with another {changed[0]}; name another --out."
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, common)


def write_tables(folder: Path) -> str:
    """table.md and classes.md from what is in ``folder``; the first is returned too."""
    if not (folder / VALIDATION).exists():
        raise SignforgeError(f"{folder} holds no trials; run some first.")
    common = read_json(folder / VALIDATION)
    validation = Validation(
        class_names=tuple(common["class_names"]),
        train_counts=tuple(common["train_counts"]),
        groups=ValidationGroups(np.array(common["group_labels"]), np.array(common["group_sizes"])),
        halves=np.array(common["halves"]),
    )
    files = [folder / f"{name}.yaml" for name in ("plan", *HALVES)]
    plans = {path.stem: BalancePlan.load(path) for path in files if path.exists()}
    rows = dict(rows_by_variant(read_rows(folder), plans))
    origin = provenance_text(next(iter(rows.values()))[-1])
    table = trials_table(rows, validation)
    write_atomically(folder / "table.md", f"{table}\n{origin}".encode())
    path = folder / REAL_ACCEPTANCE
    control = read_json(path) if path.exists() else {}
    classes = class_table(rows, validation, plans, control)
    write_atomically(folder / "classes.md", f"{classes}\n{origin}".encode())
    return table


def rows_by_variant(
    rows: Sequence[Row], plans: Mapping[str, BalancePlan]
) -> Iterator[tuple[str, list[Row]]]:
    """Rows of each variant that has some, in the order of ``VARIANTS``.

    Of a plan, those of the plan that is there now: more seeds may have changed it. A plan that
    wants nothing has the rows of "real".
    """
    for name in (*VARIANTS[:-1], *HALVES):
        own = [row for row in rows if row["arm"] == name]
        if name in HALVES:
            if name not in plans:
                continue
            wanted = {d.name: [d.remedy, d.count] for d in plans[name].decisions}
            own = [row for row in own if row["settings"]["plan"] == wanted]
            if not plans[name].counts():
                own = [row for row in rows if row["arm"] == "real"]
        if own:
            yield name, own


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="the data source, as data.source")
    parser.add_argument("--run", type=Path, help="run directory of train-cgan")
    parser.add_argument("--out", type=Path, required=True, help="folder of rows and tables")
    parser.add_argument("--variants", default=",".join(DEFAULT_VARIANTS), help="comma-separated")
    parser.add_argument("--seeds", type=int, default=3, help="number of paired repetitions")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="optimizer steps of each classifier")
    parser.add_argument("--classifier", help="timm model")
    parser.add_argument("--gate-steps", type=int, help="optimizer steps of the gate's classifiers")
    parser.add_argument("--plan-from", default="gated-0.5", help="variant that the plan may choose")
    parser.add_argument("--confidence", type=float, default=0.8, help="of a gain, for the plan")
    parser.add_argument("--tables", action="store_true", help="only write the tables anew")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    options = parse(argv)
    if options.tables:
        print(write_tables(options.out))
        return
    if options.data is None or options.run is None:
        raise SignforgeError("Give --data and --run, or --tables for the tables alone.")
    variants = options.variants.split(",")
    unknown = sorted({*variants, options.plan_from} - set(VARIANTS))
    if unknown:
        raise SignforgeError(f"Unknown variant {unknown[0]!r}: choose of {', '.join(VARIANTS)}.")
    given = {
        "data.source": options.data,
        "classifier.steps": options.steps,
        "classifier.name": options.classifier,
        "balance.gate_steps": options.gate_steps,
    }
    overrides = [(key, value) for key, value in given.items() if value is not None]
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
    open_folder(options.out, stage, sampler)
    Trials(config, stage, sampler, options).run(variants)
    print(write_tables(options.out))


if __name__ == "__main__":
    sys.exit(run_script(main))
