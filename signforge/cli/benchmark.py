"""``signforge benchmark``."""

import json
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

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
from signforge.cli.output import check_folder, print_json


@with_options
def benchmark(
    source: ConfigOptions,
    data: DataOptions,
    gan: GanOptions,
    classifier: Annotated[str | None, typer.Option(help="timm model, such as resnet18.")] = None,
    generator: Annotated[
        str | None,
        typer.Option(
            help="Run of train-cgan, or plugin:NAME:ARGUMENT; without it the GAN is trained first."
        ),
    ] = None,
    arms: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated: real, oversample, class_balanced_loss, logit_adjustment, "
            "focal_loss, ldam_drw, synthetic, synthetic_ungated, synthetic_then_real, "
            "synthetic_separate_statistics, synthetic_tenth, synthetic_tenth_separate_statistics, "
            "oversample_tenth, in borrowed light real_relit, oversample_relit, synthetic_relit and "
            "tenths; data+loss combines: synthetic_tenth+focal_loss."
        ),
    ] = None,
    classifier_augment: Annotated[
        str | None, typer.Option(help="none, basic or randaugment, for every arm; never flips.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="quick, standard or thorough: sets steps, seeds, arms and depth of the fidelity "
            "table; every other option goes over it."
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Paired repetitions.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of each classifier.")] = None,
    inception_weights: Annotated[
        Path | None,
        typer.Option(
            help="Weights of Inception-v3, for the Inception FID; by default the file in torch's "
            "cache, where there is one."
        ),
    ] = None,
    out: Annotated[Path, output_path("Run directory; an unfinished one is resumed.")] = Path(
        "runs/benchmark"
    ),
    executor: Annotated[
        str | None,
        typer.Option(
            help="Plugin that trains the classifiers, such as ray; without it they are trained "
            "one after another in this process."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and how long it takes.")
    ] = False,
    json_output: Json = False,
) -> None:
    """Train a classifier with and without balancing, and say what each remedy gained."""
    from signforge.benchmark.estimate import dry_run as estimate
    from signforge.benchmark.estimate import duration
    from signforge.benchmark.job import JobDisplay, find_generator, run_main_job
    from signforge.benchmark.tables import arms_table
    from signforge.data.prepare import download_if_asked, load_prepared_splits
    from signforge.evaluate.inception import find_inception_weights
    from signforge.live import gan_display
    from signforge.plugins import load_plugin
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

    check_folder(out)
    run_jobs = load_plugin("executor", executor) if executor is not None else None
    console = stderr_console()
    more = {
        "gan.device": source.device,
        "classifier.device": source.device,
        "classifier.name": classifier,
        "classifier.steps": steps,
        "classifier.augment": classifier_augment,
        "benchmark.arms": comma_separated(arms) if arms else None,
        "benchmark.seeds": seeds,
        "benchmark.inception_weights": str(inception_weights) if inception_weights else None,
    }
    config = resolve_config(within_budget(budget, source), data, gan, more)
    find_inception_weights(config.benchmark.inception_weights)
    config = config.model_copy(update={"data": download_if_asked(config.data, data.download)})
    track = rich_track(console)
    splits = load_prepared_splits(config.data, track=track)
    print_notes(console, splits.notes)
    if dry_run:
        plan = estimate(config, splits, out, sampler=find_generator(config, splits, generator))
        if json_output:
            print_json(plan.as_dict())
        else:
            print_lines(plan.lines)
        return
    with StopSignals() as stop, warnings_to(lambda text: print_notes(console, [text])):
        display = JobDisplay(
            message=lambda text: print_message(console, text),
            track=track,
            gan=lambda: gan_display(console, config.gan, splits.train.class_names),
            on_row=lambda row: print_message(
                console,
                f"{row['arm']}, seed {row['seed']}: validation macro accuracy "
                f"{100 * row['val_macro_accuracy']:.2f} % in {row['classifier_seconds']:.0f} s",
            ),
            on_left=lambda classifiers, seconds: print_message(
                console, f"Classifiers left: {classifiers}, about {duration(seconds)}."
            ),
            should_stop=stop,
        )
        try:
            summary = run_main_job(
                config,
                splits,
                out,
                generator=generator,
                run_jobs=run_jobs,
                command=shlex.join(["signforge", *sys.argv[1:]]),
                display=display,
            )
        except Stopped:
            print_message(console, "Stopped; the same command goes on from here.")
            raise typer.Exit(stop.exit_code or 1) from None
    if json_output:
        print_json({"run": str(out), **asdict(summary)})
        return
    print_table(arms_table(summary))
    samples = out / "samples.png"
    where = f"Report: {out / 'report.html'}, tables: {out / 'results.md'}"
    print_lines([summary.verdict, f"{where}, samples: {samples}." if samples.exists() else where])


def within_budget(budget: str | None, source: ConfigOptions) -> ConfigOptions:
    """``source`` with the keys of the budget over the config file, under ``--set`` and options."""
    from signforge.benchmark.budget import budget_keys

    if budget is None:
        return source
    keys = [f"{key}={json.dumps(value)}" for key, value in budget_keys(budget).items()]
    return replace(source, settings=[*keys, *(source.settings or [])])
