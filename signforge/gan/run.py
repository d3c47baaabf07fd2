"""A training run on disk: what was asked, on what data, with what, and pictures of its course."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from signforge.config import Config
from signforge.config_file import dump_config, load_config
from signforge.data.charts import rows_that_fit, save_image_grid
from signforge.data.splits import PreparedSplits
from signforge.environment import describe_environment
from signforge.errors import SignforgeError
from signforge.files import cannot_write, make_folder, write_atomically
from signforge.gan.checkpoint import kimg_of, list_checkpoints
from signforge.gan.distributed import by_first
from signforge.gan.film import save_curves, save_film
from signforge.gan.hub import CARD_FILE
from signforge.gan.metrics import Probe, Status
from signforge.gan.sampler import ClassConditionalSampler, GanSampler, load_sampler
from signforge.gan.training import TrainingEvents, train_cgan
from signforge.progress import Track, no_progress

GRID_COLUMNS = 12
GRID_SEED = 0
MAY_DIFFER_ON_RESUME = frozenset(
    {
        "data.source",  # the images themselves are compared
        "gan.total_kimg",
        "gan.max_minutes",
        "gan.learning_rate_decay_from_kimg",
        "gan.status_every_kimg",
        "gan.samples_every_kimg",
        "gan.checkpoint_every_kimg",
        "gan.checkpoint_every_minutes",
        "gan.keep_checkpoints",
        "gan.max_rollbacks",
        "gan.probe_every_kimg",
        "gan.trackers",
    }
)
"""How long, how often and where to. A length moves the fall of the learning rates in the steps to
come; ``resumes.jsonl`` keeps what was changed when.

Not the probe's classifier, without which Frechet distances cannot be compared to find the best
checkpoint, and not ``compile``, ``precision`` or ``device``, which change the last bits.
"""


def run_training(
    config: Config,
    splits: PreparedSplits,
    run: Path,
    *,
    resume: bool = False,
    on_start: Callable[[], None] = lambda: None,
    on_status: Callable[[Status], None] = lambda _status: None,
    on_grid: Callable[[Path, float], None] = lambda _path, _seen_kimg: None,
    should_stop: Callable[[], bool] = lambda: False,
    probe: Probe | None = None,
    track: Track = no_progress,
) -> GanSampler:
    """Trains the conditional GAN on ``splits.train`` into the run directory ``run``.

    Writes config.yaml, dataset.json, environment.json, real.png and samples/*.png beside what
    ``train_cgan`` writes, and at the end samples.png, curves.png, film.gif and film.png; returns
    the finished generator, which is the best that ``probe`` judged, else the last.

    A resumed run with another length, or other intervals, says so in resumes.jsonl. One that was
    killed before its first checkpoint starts from the beginning.

    on_start: called once the run is known to be startable, before anything is written.
    on_grid: gets the path of each grid in samples/ and the kimg seen.
    track: reports the steps of the guide's training.
    Within ``process_group`` all of this is done by the first process alone, for all.

    Raises SignforgeError as ``train_cgan`` does, where a resumed run's config or data are not
    those it was started with, naming all that differs, and where another process has ``run``.
    """
    train = splits.train
    if resume:
        _check_same_run(run, config, splits)
        # What ended before its first checkpoint, while the guide was trained, begins anew.
        resume = bool(list_checkpoints(run)) or (run / CARD_FILE).exists()

    def record() -> None:
        on_start()
        if resume:
            _record_changes(run, config)
        write_atomically(run / "config.yaml", dump_config(config).encode())
        write_atomically(run / "dataset.json", _json(_describe(splits)))
        write_atomically(run / "environment.json", _json(describe_environment(config.gan.device)))
        save_image_grid(
            run / "real.png", train.examples(GRID_COLUMNS), row_names(train.class_names)
        )

    def on_samples(sampler: GanSampler, seen_kimg: float) -> None:
        whole, part = divmod(round(1000 * seen_kimg), 1000)
        # Where grids may share a whole number, each says more.
        more = f".{part:03d}" if config.gan.samples_every_kimg < 1 else ""
        path = run / "samples" / f"{whole:06d}{more}kimg.png"
        save_sample_grid(path, sampler)
        on_grid(path, seen_kimg)

    events = TrainingEvents(
        on_start=record,
        on_status=on_status,
        on_samples=on_samples,
        should_stop=should_stop,
        probe=probe,
        track=track,
    )
    with _alone_in(run):
        train_cgan(config.gan, train, run, events=events, resume=resume)
        sampler = load_sampler(run, config.gan.device)
        by_first(save_sample_grid, run / "samples.png", sampler)
        by_first(save_curves, run)
        by_first(save_film, run)
    return sampler


@contextmanager
def _alone_in(run: Path) -> Iterator[None]:
    """Holds the run directory's lock: two trainings in one would delete each other's files."""
    file = run / ".lock"
    lock, file_is_new, folder_is_new = (
        FileLock(file, timeout=0),
        not file.exists(),
        not run.is_dir(),
    )

    def take() -> None:
        try:
            make_folder(run)
            lock.acquire()
        except Timeout:
            raise SignforgeError(
                f"Another process trains into {run}; wait for its end, or choose another --out."
            ) from None
        except OSError as error:
            raise cannot_write(run, error) from None

    by_first(take)
    try:
        yield
    except BaseException:
        # What was refused leaves the folder as it was.
        if file_is_new and lock.is_locked:
            with suppress(OSError):
                file.unlink()
                if folder_is_new and not any(run.iterdir()):
                    run.rmdir()
        raise
    finally:
        lock.release()


def save_sample_grid(path: Path, sampler: ClassConditionalSampler) -> None:
    """A PNG of ``GRID_COLUMNS`` samples a class, one row a class, the same latents every time.

    Of many classes it shows some, as ``rows_that_fit`` chooses them.
    """
    side = sampler.resolution
    shown = rows_that_fit(sampler.num_classes, GRID_COLUMNS, side, side)
    labels = torch.tensor(shown).repeat_interleave(GRID_COLUMNS)
    rows = torch.split(sampler.sample(labels, GRID_SEED), GRID_COLUMNS)
    names = row_names(sampler.class_names)
    save_image_grid(path, rows, [names[label] for label in shown])


def row_names(class_names: tuple[str, ...]) -> list[str]:
    """Ids beside names, as both may be typed after ``--class``."""
    return [name if name == str(i) else f"{i} {name}" for i, name in enumerate(class_names)]


def _describe(splits: PreparedSplits) -> dict[str, Any]:
    named = {"train": splits.train, "val": splits.val, "test": splits.test}
    return {
        "source": splits.source,
        "class_names": list(splits.train.class_names),
        "notes": list(splits.notes),
        "splits": {
            name: {
                "images": len(split),
                "class_counts": split.class_counts.tolist(),
                "fingerprint": split.fingerprint,
            }
            for name, split in named.items()
        },
    }


def _record_changes(run: Path, config: Config) -> None:
    """One line of resumes.jsonl: at which kimg which keys went from which value to which."""
    recorded = load_config(run / "config.yaml")
    changes = {
        f"{section}.{key}": [getattr(getattr(recorded, section), key), value]
        for section in ("data", "gan")
        for key, value in getattr(config, section)
        if getattr(getattr(recorded, section), key) != value
    }
    if changes:
        kimg = kimg_of(list_checkpoints(run)[-1])
        line = json.dumps({"seen_kimg": kimg, "changes": changes}).encode() + b"\n"
        path = run / "resumes.jsonl"
        write_atomically(path, (path.read_bytes() if path.exists() else b"") + line)


def _check_same_run(run: Path, config: Config, splits: PreparedSplits) -> None:
    differing = _differing_keys(load_config(run / "config.yaml"), config)
    differing += _differing_data(run, splits)
    if differing:
        raise SignforgeError(
            f"{run} was started with other values of {', '.join(differing)}; resume it with those "
            "of its config.yaml and dataset.json, or start a new run with another --out."
        )


def _differing_keys(recorded: Config, config: Config) -> list[str]:
    """Keys as in ``--set``; what an older config.yaml does not name yet has its default there."""
    return [
        f"{section}.{key}"
        for section in ("data", "gan")
        for key, value in getattr(config, section)
        if f"{section}.{key}" not in MAY_DIFFER_ON_RESUME
        and getattr(getattr(recorded, section), key) != value
    ]


def _differing_data(run: Path, splits: PreparedSplits) -> list[str]:
    """Of the images trained on, and of those by which the best checkpoint is chosen."""
    try:
        dataset = json.loads((run / "dataset.json").read_text(encoding="utf-8"))
        recorded = {name: dataset["splits"][name]["fingerprint"] for name in ("train", "val")}
    except (OSError, ValueError, KeyError, TypeError):
        raise SignforgeError(f"{run / 'dataset.json'} cannot be read; start a new run.") from None
    return [
        f"the {name} images (fingerprint {recorded[name]!s:.12}, now {split.fingerprint:.12})"
        for name, split in (("train", splits.train), ("val", splits.val))
        if recorded[name] != split.fingerprint
    ]


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2).encode()
