"""The first moment of a training: whether its folder may be used, and where it goes on."""

from dataclasses import replace
from pathlib import Path

from signforge.config import GanConfig
from signforge.errors import SignforgeError
from signforge.files import cannot_write, remove_leftovers
from signforge.gan.checkpoint import TrainingState, list_checkpoints, load_checkpoint
from signforge.gan.distributed import by_first
from signforge.gan.hub import CARD_FILE
from signforge.gan.metrics import Progress, forget_after
from signforge.gan.schedule import reachable_kimg


def begin_run(run: Path, state: TrainingState, config: GanConfig, *, resume: bool) -> Progress:
    """Where a training begins: at nothing, or, with the newest checkpoint in ``state``, there.

    Raises SignforgeError for a folder that holds a run already (without ``resume``), nothing to
    resume and a damaged checkpoint.
    """
    by_first(_tidy if resume else _require_new, run)
    if not resume:
        return Progress()
    progress = load_checkpoint(list_checkpoints(run)[-1], state)
    by_first(forget_after, run / "metrics.jsonl", progress)
    if progress.step:  # the time may be another now, and what is in reach of it
        progress = replace(progress, reachable_kimg=reachable_kimg(config, progress))
    return progress


def _require_new(run: Path) -> None:
    if list_checkpoints(run):
        raise SignforgeError(
            f"{run} already holds a training run; use --resume to go on, or another --out."
        )
    if (run / CARD_FILE).exists():
        raise SignforgeError(f"{run} already holds a generator; use another --out.")


def _tidy(run: Path) -> None:
    """Makes a run ready to go on from."""
    if not list_checkpoints(run):
        if (run / CARD_FILE).exists():
            raise SignforgeError(
                f"{run} holds a generator, but no checkpoint to resume from; train anew with "
                "another --out."
            )
        raise SignforgeError(f"{run} has no checkpoint to resume from; start without --resume.")
    try:
        folders = (run, run / "samples", run / "probe", run / "checkpoints", *list_checkpoints(run))
        for folder in folders:
            remove_leftovers(folder)
    except OSError as error:
        raise cannot_write(run, error) from None
