"""``signforge plan``."""

import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from signforge.cli.notes import warnings_to
from signforge.cli.options import (
    ConfigOptions,
    DataOptions,
    GanOptions,
    Json,
    output_path,
    resolve_config,
    with_options,
)
from signforge.cli.output import check_folder, print_json
from signforge.errors import SignforgeError

if TYPE_CHECKING:
    from signforge.balance.plan import BalancePlan, ClassDecision
    from signforge.benchmark.tables import Table


@with_options
def plan(
    run: Annotated[Path, typer.Argument(help="Run directory of train-cgan.")],
    source: ConfigOptions,
    data: DataOptions,
    out: Annotated[
        Path,
        output_path("YAML file; trials are kept beside it, in a folder of its name."),
    ] = Path("plan.yaml"),
    classifier: Annotated[str | None, typer.Option(help="timm model, such as resnet18.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Paired repetitions of each remedy.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of each classifier.")] = None,
    gate_tau: Annotated[
        float | None,
        typer.Option(
            help="Samples go through a gate: a classifier of real images gives their class this "
            "probability; 0 keeps all."
        ),
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="A class gets a remedy whose gain is this probable.")
    ] = 0.8,
    json_output: Json = False,
) -> None:
    """Decide for each class whether synthetic images, oversampling or nothing serves it best.

    Trains classifiers with each remedy on the training split and compares them on the validation
    split. The plan is a sampling_strategy for SyntheticBalancedDataset, export and benchmark.
    Stopped, the same command goes on from where it was.
    """
    from signforge.benchmark.folder import Row
    from signforge.benchmark.planning import make_plan
    from signforge.data.prepare import download_if_asked, load_prepared_splits
    from signforge.gan.sampler import load_sampler
    from signforge.progress import Stopped
    from signforge.terminal import (
        StopSignals,
        print_lines,
        print_message,
        print_notes,
        print_table,
        rich_track,
        stderr_console,
    )

    _check_file(out)
    console = stderr_console()
    saved = run / "config.yaml"
    more = {
        "gan.device": source.device,
        "classifier.device": source.device,
        "classifier.name": classifier,
        "classifier.steps": steps,
        "benchmark.seeds": seeds,
        "balance.gate_tau": gate_tau,
    }
    config = resolve_config(
        source, data, GanOptions(), more, file_or_preset=str(saved) if saved.is_file() else None
    )
    sampler = load_sampler(run, config.gan.device)
    config = config.model_copy(update={"data": download_if_asked(config.data, data.download)})
    track = rich_track(console)
    splits = load_prepared_splits(config.data, track=track)
    print_notes(console, splits.notes)

    def note(text: str) -> None:
        print_message(console, f"Note: {text}")

    with StopSignals() as stop, warnings_to(note):

        def on_row(row: Row) -> None:
            print_message(
                console,
                f"{row['arm']}, seed {row['seed']}: macro accuracy on validation "
                f"{100 * row['macro_accuracy']:.2f} % in {row['fit_seconds']:.0f} s",
            )
            if stop():
                raise Stopped

        try:
            made = make_plan(
                config,
                splits.train,
                splits.val,
                sampler,
                out.with_suffix(".trials"),
                confidence=confidence,
                command=shlex.join(["signforge", *sys.argv[1:]]),
                message=note,
                on_row=on_row,
                track=track,
            )
        except Stopped:
            print_message(console, "Stopped; the same command goes on from here.")
            raise typer.Exit(stop.exit_code or 1) from None
    made.save(out)
    if json_output:
        print_json({"plan": str(out), **made.model_dump(mode="json")})
        return
    print_table(_table(made))
    print_lines([_sentence(made, out)])


def _check_file(out: Path) -> None:
    """Refuses what could not be written after hours, and a file that is something else."""
    from signforge.balance.plan import as_plan

    check_folder(out.parent)
    if out.is_dir():
        raise SignforgeError(f"--out {out} is a folder; give the name of a YAML file.")
    if out.exists() and as_plan(out) is None:
        raise SignforgeError(f"--out {out} exists and is no balance plan; give another name.")


def _sentence(plan: "BalancePlan", out: Path) -> str:
    remedies = Counter(decision.remedy for decision in plan.decisions)
    return (
        f"Synthetic images for {remedies['synthetic']} classes, oversampling for "
        f"{remedies['oversample']}, nothing for {remedies['nothing']}; use it as "
        f"sampling_strategy: {out}."
    )


def _table(plan: "BalancePlan") -> "Table":
    from signforge.benchmark.tables import Table

    return Table(
        title="Gain in validation recall over the real images alone, in points",
        header=(
            "class", "remedy", "real images", "target", "groups", "accepted",
            "synthetic", "probability", "oversample", "probability",
        ),
        rows=tuple(_row(decision) for decision in plan.decisions),
        text_columns=2,
    )  # fmt: skip


def _row(decision: "ClassDecision") -> tuple[str, ...]:
    gains: list[str] = []
    for remedy in ("synthetic", "oversample"):
        found = decision.evidence.get(remedy)
        gains += [f"{100 * found.gain:+.1f}", f"{found.probability:.2f}"] if found else ["-", "-"]
    share = decision.acceptance
    return (
        decision.name,
        decision.remedy,
        f"{decision.real_count:,}",
        f"{decision.count:,}",
        str(decision.num_groups),
        "-" if share is None else f"{share:.0%}",
        *gains,
    )
