"""The command line: parses, calls one function, prints. Results go to stdout, all else to stderr.

Modules that take long to import are imported by the command that needs them.
"""

import json
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from signforge.config import Config, load_config, parse_override
from signforge.errors import SignforgeError

app = typer.Typer(
    name="signforge",
    help="Balance rare image classes with one conditional DCGAN, and measure whether it helped.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
data_app = typer.Typer(help="Look at a data set.", no_args_is_help=True)
app.add_typer(data_app, name="data")

SOURCE_HELP = (
    "'demo', or a path: GTSRB's official zips or tree, torchvision's or Kaggle's GTSRB, train.p "
    "pickles, or a folder with one folder of images a class."
)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
ConfigFile = Annotated[
    str | None, typer.Option("--config", help="YAML file, or the name of a preset.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.key=value over the config file; may be repeated."),
]
Data = Annotated[str | None, typer.Option("--data", help=SOURCE_HELP)]
Download = Annotated[
    bool, typer.Option("--download", help="Download GTSRB to the source folder first.")
]
Resolution = Annotated[int | None, typer.Option(help="Height and width in pixels.")]
Crop = Annotated[str | None, typer.Option(help="full, or roi (the box a GTSRB CSV gives).")]
ImbalanceRatio = Annotated[
    float | None, typer.Option(help="Cut training to a long tail of this n_max / n_min, by group.")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the GAN.")]
Kimg = Annotated[float | None, typer.Option(help="GAN training length in thousands of images.")]
Minutes = Annotated[float | None, typer.Option(help="GAN training time at most.")]


@data_app.command("inspect")
def data_inspect(
    source: Annotated[str, typer.Argument(help=SOURCE_HELP)],
    out: Annotated[Path, typer.Option(help="Folder for the bar chart and the grid.")] = Path(
        "runs/inspect"
    ),
    resolution: Resolution = None,
    crop: Crop = None,
    download: Download = False,
    json_output: Json = False,
) -> None:
    """Sizes, class counts, imbalance, groups, duplicates and unreadable files of SOURCE."""
    from signforge.data.inspect import inspect_source, report_lines
    from signforge.data.prepare import download_if_asked, unreadable_sentence
    from signforge.terminal import print_lines, rich_track, stderr_console

    _check_folder(out)
    console = stderr_console()
    config = _config(
        None, None, {"data.source": source, "data.resolution": resolution, "data.crop": crop}
    )
    data = download_if_asked(config.data, download)
    report, splits = inspect_source(data, out, track=rich_track(console))
    if json_output:
        _print_json(report)
    else:
        print_lines(report_lines(report))
    if splits.unreadable:
        raise SignforgeError(unreadable_sentence(splits.unreadable))


@app.command("train-cgan")
def train_cgan(
    data: Data = None,
    out: Annotated[Path, typer.Option(help="Run directory.")] = Path("runs/cgan"),
    config: ConfigFile = None,
    settings: Settings = None,
    kimg: Kimg = None,
    minutes: Minutes = None,
    seed: Seed = None,
    resolution: Resolution = None,
    crop: Crop = None,
    imbalance_ratio: ImbalanceRatio = None,
    device: Device = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last save.")] = False,
    download: Download = False,
    json_output: Json = False,
) -> None:
    """Train one class-conditional DCGAN on all classes of the training split."""
    from signforge.data.prepare import download_if_asked, load_prepared_splits
    from signforge.gan.run import run_training
    from signforge.terminal import StopSignals, gan_display, print_notes, rich_track, stderr_console

    _check_folder(out)
    console = stderr_console()
    flags = {
        "data.source": data,
        "data.resolution": resolution,
        "data.crop": crop,
        "data.imbalance_ratio": imbalance_ratio,
        "gan.total_kimg": kimg,
        "gan.max_minutes": minutes,
        "gan.seed": seed,
        "gan.device": device,
    }
    if resume and not (out / "config.yaml").is_file():
        raise SignforgeError(f"{out} holds no training run to resume; start without --resume.")
    base = str(out / "config.yaml") if resume and config is None else config
    resolved = _config(base, settings, flags)
    resolved = resolved.model_copy(update={"data": download_if_asked(resolved.data, download)})
    splits = load_prepared_splits(resolved.data, track=rich_track(console))
    print_notes(console, splits.notes)
    with StopSignals() as stop, gan_display(console, resolved.gan) as on_status:
        sampler = run_training(
            resolved, splits, out, resume=resume, on_status=on_status, should_stop=stop
        )
    card = sampler.card
    result = {
        "run": str(out),
        "seen_kimg": card.seen_kimg,
        "seconds": round(card.seconds, 1),
        "fingerprint": sampler.fingerprint,
        "samples": str(out / "samples.png"),
        "stopped": stop.exit_code is not None,
    }
    ending = "Stopped; go on with --resume." if stop.exit_code else "Done."
    _print_result(
        result,
        f"{ending} {card.seen_kimg:.0f} kimg in {card.seconds / 60:.1f} minutes; generator in "
        f"{out}, samples in {out / 'samples.png'}.",
        json_output,
    )
    if stop.exit_code:
        raise typer.Exit(stop.exit_code)


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(help="Run directory of train-cgan.")],
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="Name or id; may be repeated. Default: all classes."),
    ] = None,
    num: Annotated[int, typer.Option(min=1, help="Images of each class.")] = 100,
    out: Annotated[Path | None, typer.Option(help="Folder; default RUN/generated.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    json_output: Json = False,
) -> None:
    """Draw images of one class, of several or of all, as PNG files and a grid."""
    from signforge.gan.generate import find_class, generate_images
    from signforge.gan.sampler import load_sampler
    from signforge.terminal import rich_track, stderr_console

    _check_folder(out)
    sampler = load_sampler(run, device)
    names = sampler.class_names
    wanted = (find_class(name, names) for name in classes) if classes else range(len(names))
    labels = list(dict.fromkeys(wanted))
    folder = out or run / "generated"
    track = rich_track(stderr_console())
    files = generate_images(sampler, labels, num, folder, seed=seed, track=track)
    result = {
        "folder": str(folder),
        "grid": str(folder / "grid.png"),
        "classes": {str(label): names[label] for label in labels},
        "seed": seed,
        "files": [str(file) for file in files],
    }
    _print_result(
        result, f"{len(files)} images in {folder}, grid in {folder / 'grid.png'}.", json_output
    )


@app.command()
def benchmark(
    data: Data = None,
    classifier: Annotated[str | None, typer.Option(help="timm model, such as resnet18.")] = None,
    generator: Annotated[
        Path | None, typer.Option(help="Run of train-cgan; without it the GAN is trained first.")
    ] = None,
    arms: Annotated[
        str | None, typer.Option(help="Comma-separated: real,oversample,synthetic.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Paired repetitions.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of each classifier.")] = None,
    out: Annotated[Path, typer.Option(help="Run directory; an unfinished one is resumed.")] = Path(
        "runs/benchmark"
    ),
    config: ConfigFile = None,
    settings: Settings = None,
    kimg: Kimg = None,
    minutes: Minutes = None,
    resolution: Resolution = None,
    crop: Crop = None,
    imbalance_ratio: ImbalanceRatio = None,
    device: Device = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and how long it takes.")
    ] = False,
    download: Download = False,
    json_output: Json = False,
) -> None:
    """Train a classifier with and without balancing, and say what each remedy gained."""
    from signforge.benchmark.estimate import dry_run as estimate
    from signforge.benchmark.job import JobDisplay, Stopped, find_generator, run_main_job
    from signforge.benchmark.report import arms_table
    from signforge.data.prepare import download_if_asked, load_prepared_splits
    from signforge.terminal import (
        StopSignals,
        gan_display,
        print_lines,
        print_message,
        print_notes,
        print_table,
        rich_track,
        stderr_console,
    )

    _check_folder(out)
    console = stderr_console()
    flags = {
        "data.source": data,
        "data.resolution": resolution,
        "data.crop": crop,
        "data.imbalance_ratio": imbalance_ratio,
        "gan.total_kimg": kimg,
        "gan.max_minutes": minutes,
        "gan.device": device,
        "classifier.name": classifier,
        "classifier.steps": steps,
        "classifier.device": device,
        "benchmark.arms": [arm.strip() for arm in arms.split(",")] if arms else None,
        "benchmark.seeds": seeds,
    }
    resolved = _config(config, settings, flags)
    resolved = resolved.model_copy(update={"data": download_if_asked(resolved.data, download)})
    track = rich_track(console)
    splits = load_prepared_splits(resolved.data, track=track)
    print_notes(console, splits.notes)
    if dry_run:
        plan = estimate(resolved, splits, out, sampler=find_generator(resolved, splits, generator))
        if json_output:
            _print_json(plan.as_dict())
        else:
            print_lines(plan.lines)
        return
    with StopSignals() as stop:
        display = JobDisplay(
            message=lambda text: print_message(console, text),
            track=track,
            gan=lambda: gan_display(console, resolved.gan),
            on_row=lambda row: print_message(
                console,
                f"{row['arm']}, seed {row['seed']}: macro accuracy "
                f"{100 * row['macro_accuracy']:.2f} % in {row['classifier_seconds']:.0f} s",
            ),
            should_stop=stop,
        )
        try:
            summary = run_main_job(
                resolved,
                splits,
                out,
                generator=generator,
                command=shlex.join(["signforge", *sys.argv[1:]]),
                display=display,
            )
        except Stopped:
            print_message(console, "Stopped; the same command goes on from here.")
            raise typer.Exit(stop.exit_code or 1) from None
    if json_output:
        _print_json({"run": str(out), **asdict(summary)})
        return
    print_table(arms_table(summary))
    samples = out / "samples.png"
    where = f"Report: {out / 'results.md'}"
    print_lines([summary.verdict, f"{where}, samples: {samples}." if samples.exists() else where])


def main() -> None:
    """Runs the command line; what the user can mend becomes one sentence and exit code 2."""
    try:
        app()
    except SignforgeError as error:
        sys.stderr.write(f"Error: {error}\n")
        sys.exit(2)
    except OSError as error:
        # A path that the system refuses is the user's to mend; any other is a bug.
        if error.filename is None:
            raise
        sys.stderr.write(f"Error: Cannot use {error.filename}: {error.strerror}.\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _config(
    file_or_preset: str | None, settings: list[str] | None, flags: dict[str, Any]
) -> Config:
    """Defaults, config file, ``--set``, then the flags that were given."""
    given = [(key, value) for key, value in flags.items() if value is not None]
    return load_config(file_or_preset, [*map(parse_override, settings or []), *given])


def _check_folder(out: Path | None) -> None:
    """Refuses a folder that cannot be written to, before hours of work that would end there."""
    place = out
    while place is not None and not place.exists() and place != place.parent:
        place = place.parent
    if place is not None and not place.is_dir():
        raise SignforgeError(f"--out {out}: {place} is a file; give a folder.")
    if place is not None and not os.access(place, os.W_OK | os.X_OK):
        raise SignforgeError(f"--out {out}: {place} is not writable; give another folder.")


def _print_result(result: dict[str, Any], sentence: str, json_output: bool) -> None:
    if json_output:
        _print_json(result)
    else:
        sys.stdout.write(sentence + "\n")


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")
