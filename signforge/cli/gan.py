"""``signforge train-cgan`` and ``signforge generate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from signforge.cli.options import (
    GAN,
    ConfigOptions,
    DataOptions,
    GanOptions,
    Json,
    Tracker,
    output_path,
    resolve_config,
    with_options,
)
from signforge.cli.output import check_folder, print_result
from signforge.errors import SignforgeError

if TYPE_CHECKING:
    from signforge.gan.sampler import GanSampler


@with_options
def train_cgan(
    source: ConfigOptions,
    data: DataOptions,
    gan: GanOptions,
    out: Annotated[Path, output_path("Run directory.")] = Path("runs/cgan"),
    seed: Annotated[int | None, typer.Option(help="Seed of the GAN.", rich_help_panel=GAN)] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last save.")] = False,
    json_output: Json = False,
) -> None:
    """Train one class-conditional DCGAN on all classes of the training split."""
    from signforge.data.prepare import download_if_asked, load_prepared_splits
    from signforge.evaluate.observed import train_observed
    from signforge.gan.distributed import by_first, largest, process_group
    from signforge.gan.training import StoppedBeforeStart
    from signforge.live import gan_display
    from signforge.terminal import (
        StopSignals,
        is_first_process,
        print_notes,
        rich_track,
        stderr_console,
    )

    check_folder(out)
    console = stderr_console()
    if resume and not (out / "config.yaml").is_file():
        raise SignforgeError(f"{out} holds no training run to resume; start without --resume.")
    config = resolve_config(
        source,
        data,
        gan,
        {"gan.seed": seed, "gan.device": source.device},
        file_or_preset=str(out / "config.yaml") if resume else None,
    )
    with process_group(config.gan.device):
        data_config = by_first(download_if_asked, config.data, data.download)
        config = config.model_copy(update={"data": data_config})
        splits = load_prepared_splits(config.data, track=rich_track(console))
        print_notes(console, splits.notes)
        names = splits.train.class_names
        with StopSignals() as stop, gan_display(console, config.gan, names) as shown:
            try:
                sampler = train_observed(
                    config, splits, out, resume=resume, should_stop=stop, display=shown
                )
            except StoppedBeforeStart:
                sampler = None
        exit_code = largest(stop.exit_code or 0)
        if is_first_process():
            if sampler is None:
                early = "Stopped before the first step; the same command starts anew."
                print_result({"run": str(out), "seen_kimg": 0, "stopped": True}, early, json_output)
            else:
                _print_run(out, sampler, json_output, stopped=exit_code > 0)
    if exit_code:
        raise typer.Exit(exit_code)


def _print_run(out: Path, sampler: "GanSampler", json_output: bool, *, stopped: bool) -> None:
    card = sampler.card
    result = {
        "run": str(out),
        "seen_kimg": card.seen_kimg,
        "seconds": round(card.seconds, 1),
        "fingerprint": sampler.fingerprint,
        "samples": str(out / "samples.png"),
        "curves": str(out / "curves.png"),
        "stopped": stopped,
    }
    ending = "Stopped; go on with --resume." if stopped else "Done."
    print_result(
        result,
        f"{ending} {card.seconds / 60:.1f} minutes; generator in {out}, as it was after "
        f"{card.seen_kimg:.0f} kimg, samples in {out / 'samples.png'}, curves in "
        f"{out / 'curves.png'}.",
        json_output,
    )


def generate(
    run: Annotated[Path, typer.Argument(help="Run directory of train-cgan, or hf://OWNER/NAME.")],
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="Name or id; may be repeated. Default: all classes."),
    ] = None,
    num: Annotated[int, typer.Option(min=1, help="Images of each class.")] = 100,
    out: Annotated[Path | None, output_path("Folder; default RUN/generated.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1)] = 0,
    truncation: Annotated[
        float | None,
        typer.Option(
            help="Draws latents beyond so many standard deviations anew: less varied, more typical."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    tracker: Tracker = None,
    json_output: Json = False,
) -> None:
    """Draw images of one class, of several or of all, as PNG files and a grid."""
    from signforge.data.classes import find_class
    from signforge.device import enough_memory
    from signforge.gan.generate import generate_images
    from signforge.gan.hub import parse_address
    from signforge.gan.sampler import load_sampler
    from signforge.gan.trackers import check_trackers, track_generated
    from signforge.terminal import print_message, rich_track, stderr_console

    check_folder(out)
    check_trackers(tracker or [])
    if out is None and parse_address(run) is not None:
        raise SignforgeError(f"{run} is not a folder here: say with --out where the images go.")
    console = stderr_console()
    sampler = load_sampler(run, device, truncation=truncation)
    names = sampler.class_names
    wanted = (find_class(name, names) for name in classes) if classes else range(len(names))
    labels = list(dict.fromkeys(wanted))
    folder = out or run / "generated"
    track = rich_track(console)
    variant = "" if truncation is None else f"_truncation{truncation}"
    grid = folder / "grid.png"
    asked: dict[str, str | int | float] = {
        "classes": ", ".join(names[label] for label in labels),
        "num": num,
        "seed": seed,
        "fingerprint": sampler.fingerprint,
    }
    if truncation is not None:
        asked["truncation"] = truncation
    named_after = run if parse_address(run) is None else folder
    with (
        enough_memory("draw fewer images at a time with --num"),
        track_generated(
            tracker or [], named_after, grid, asked, lambda text: print_message(console, text)
        ),
    ):
        files = generate_images(
            sampler, labels, num, folder, seed=seed, variant=variant, track=track
        )
    result = {
        "folder": str(folder),
        "grid": str(grid),
        "classes": {str(label): names[label] for label in labels},
        "seed": seed,
        "truncation": truncation,
        "files": [str(file) for file in files],
    }
    print_result(result, f"{len(files)} images in {folder}, grid in {grid}.", json_output)
