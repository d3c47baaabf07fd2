"""``signforge export``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from signforge.cli.notes import warnings_to
from signforge.cli.options import (
    ConfigOptions,
    DataOptions,
    GanOptions,
    Json,
    comma_separated,
    output_path,
    resolve_config,
    with_options,
)
from signforge.cli.output import check_folder, print_result

if TYPE_CHECKING:
    from signforge.export.folder import ExportReport


@with_options
def export(
    run: Annotated[Path, typer.Argument(help="Run directory of train-cgan.")],
    source: ConfigOptions,
    data: DataOptions,
    out: Annotated[
        Path, output_path("New or empty folder, or one where the same export was stopped.")
    ],
    strategy: Annotated[
        str | None,
        typer.Option(
            help="auto, all, minority, 'not minority', 'not majority', or a YAML file: class "
            "counts, or a plan of signforge plan."
        ),
    ] = None,
    gate_tau: Annotated[
        float | None,
        typer.Option(
            help="Keep a synthetic image only if a classifier of real images, trained first, "
            "gives its class this probability; 0 keeps all."
        ),
    ] = None,
    also: Annotated[
        str | None,
        typer.Option(help="Comma-separated: val,test; written beside train as they are."),
    ] = None,
    epoch: Annotated[int, typer.Option(min=0, help="Which epoch's synthetic images to write.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the synthetic images.")] = 0,
    json_output: Json = False,
) -> None:
    """Write the balanced training split as PNG files, one folder a class, with a manifest.

    For training code that is not Python. Data options that are not given are those of RUN.
    Stopped, the same command goes on from where it was.
    """
    from signforge.data.prepare import download_if_asked, load_prepared_splits
    from signforge.export.job import export_balanced
    from signforge.gan.sampler import load_sampler
    from signforge.terminal import print_message, print_notes, rich_track, stderr_console

    check_folder(out)
    console = stderr_console()
    saved = run / "config.yaml"
    config = resolve_config(
        source,
        data,
        GanOptions(),
        {
            "balance.sampling_strategy": strategy,
            "balance.gate_tau": gate_tau,
            "gan.device": source.device,
            "classifier.device": source.device,
        },
        file_or_preset=str(saved) if saved.is_file() else None,
    )
    sampler = load_sampler(run, config.gan.device)
    config = config.model_copy(update={"data": download_if_asked(config.data, data.download)})
    track = rich_track(console)
    splits = load_prepared_splits(config.data, track=track)
    print_notes(console, splits.notes)
    with warnings_to(lambda text: print_message(console, f"Note: {text}")):
        report = export_balanced(
            sampler,
            config,
            splits,
            out,
            also=comma_separated(also) if also else (),
            epoch=epoch,
            seed=seed,
            track=track,
        )
    _print_report(report, json_output)


def _print_report(report: "ExportReport", json_output: bool) -> None:
    from signforge.export.manifest import ORIGINS

    totals = {
        split: {origin: report.total(split, origin) for origin in ORIGINS}
        for split in report.counts
    }
    result = {
        "folder": str(report.folder),
        "manifest": str(report.folder / "manifest.csv"),
        "images": totals,
        "written": report.written,
        "was_complete": report.was_complete,
        "counts": report.counts,
        **report.facts,
    }
    described = "; ".join(
        f"{split}: " + ", ".join(f"{count:,} {origin}" for origin, count in of.items() if count)
        for split, of in totals.items()
    )
    if report.was_complete:
        sentence = f"{report.folder} already holds this export ({described}); nothing to do."
    else:
        sentence = (
            f"Done. {report.folder} holds {described}; {report.written:,} files written now. "
            f"What each file is: {result['manifest']}."
        )
    print_result(result, sentence, json_output)
