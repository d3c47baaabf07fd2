"""TensorBoard, MLflow and Weights & Biases, through the trackers of Hugging Face accelerate.

Extras, all of them: nothing is imported unless ``gan.trackers`` asks for it. metrics.jsonl stays
the record; a tracker that fails in the middle of a run is given up, and the run goes on.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from signforge.config import Config
from signforge.data.decode import decode_image
from signforge.errors import SignforgeError
from signforge.files import write_atomically
from signforge.gan.metrics import Status

PROJECT = "signforge"
"""The experiment of MLflow and the project of W&B."""
KEPT = "trackers.json"
"""File of the run directory with the ids under which MLflow and W&B know this run."""
PACKAGES = {
    "tensorboard": ("tensorboard", "signforge[trackers]"),
    "mlflow": ("mlflow", "signforge[mlflow]"),
    "wandb": ("wandb", "signforge[wandb]"),
}
"""Package that a tracker needs beside accelerate, and the extra that brings both."""


class Trackers:
    """What ``gan.trackers`` names, opened at the first status so that refused runs leave no trace.

    In a run of several processes only the one that writes the run directory may call it.
    """

    def __init__(self, config: Config, run: Path, on_problem: Callable[[str], None]) -> None:
        self._config = config
        self._run = run
        self._on_problem = on_problem
        self._opened: dict[str, Any] | None = None

    def log_status(self, status: Status) -> None:
        """Every number of ``status``, by images seen; of collapsed classes how many they are.

        Raises SignforgeError where a tracker cannot be opened.
        """
        values = {key: value for key, value in asdict(status).items() if value is not None}
        if status.collapsed_classes is not None:
            values["collapsed_classes"] = len(status.collapsed_classes)
        step = _step(values.pop("seen_kimg"))
        self._each(lambda _name, tracker: tracker.log(values, step=step))

    def log_grid(self, path: Path, seen_kimg: float) -> None:
        """A PNG of samples, as an image; for MLflow as an artifact."""
        image = decode_image(path.read_bytes(), str(path))
        step = _step(seen_kimg)
        self._each(lambda name, tracker: _log_image(name, tracker, path, image, step))

    def close(self) -> None:
        """Tells each tracker that the run is over."""
        if self._opened:
            self._each(lambda _name, tracker: tracker.finish())

    def _each(self, act: Callable[[str, Any], None]) -> None:
        if self._opened is None:
            self._opened = _open(self._config, self._run)
        for name, tracker in list(self._opened.items()):
            try:
                act(name, tracker)
            except Exception as error:
                del self._opened[name]
                self._on_problem(
                    f"{name} failed ({_first_line(error)}); the run goes on without it, and "
                    f"{self._run / 'metrics.jsonl'} has all values."
                )


@contextmanager
def open_trackers(
    config: Config, run: Path, on_problem: Callable[[str], None] = lambda _text: None
) -> Iterator[Trackers]:
    """The trackers of ``config.gan.trackers``, closed at the end; none is fine.

    on_problem: gets a sentence about each tracker that fails while the run goes on.
    Raises SignforgeError at once for a package that is missing.
    """
    check_trackers(config.gan.trackers)
    trackers = Trackers(config, run, on_problem)
    try:
        yield trackers
    finally:
        trackers.close()


def check_trackers(names: Sequence[str]) -> None:
    """Raises SignforgeError, with the pip command, where a package for ``names`` is missing."""
    for name in names:
        package, extra = PACKAGES[name]
        for needed in ("accelerate", package):
            if find_spec(needed) is None:
                raise SignforgeError(
                    f"The tracker {name} needs the package {needed}: run "
                    f"`pip install '{extra}'`, or leave {name} out of gan.trackers."
                )


def flat_config(config: Config) -> dict[str, str | int | float | bool]:
    """``{"gan.seed": 0, ...}``; what is no number, truth value or text becomes JSON text."""
    return {
        f"{section}.{key}": value
        if isinstance(value, str | int | float | bool)
        else json.dumps(value)
        for section, values in config.model_dump(mode="json").items()
        for key, value in values.items()
    }


def _open(config: Config, run: Path) -> dict[str, Any]:
    opened: dict[str, Any] = {}
    if not config.gan.trackers:
        return opened
    from accelerate import PartialState

    PartialState()  # accelerate's trackers ask it which process is the main one
    kept = _read_kept(run / KEPT)
    for name in dict.fromkeys(config.gan.trackers):
        try:
            opened[name] = _START[name](run, kept.get(name))
            if name not in kept:
                opened[name].store_init_configuration(flat_config(config))
                kept[name] = _run_id(name, opened[name])
        except Exception as error:
            raise SignforgeError(
                f"The tracker {name} cannot be opened: {_first_line(error)}; mend that, or leave "
                f"{name} out of gan.trackers."
            ) from error
    write_atomically(run / KEPT, json.dumps(kept, indent=2).encode())
    return opened


def _start_tensorboard(run: Path, _known: str | None) -> Any:
    from accelerate.tracking import TensorBoardTracker

    return _started(TensorBoardTracker("tensorboard", logging_dir=str(run)))


def _start_mlflow(run: Path, known: str | None) -> Any:
    from accelerate.tracking import MLflowTracker

    return _started(MLflowTracker(PROJECT, run_id=known, run_name=run.name))


def _start_wandb(run: Path, known: str | None) -> Any:
    from accelerate.tracking import WandBTracker

    return _started(WandBTracker(PROJECT, name=run.name, dir=str(run), id=known, resume="allow"))


_START: dict[str, Callable[[Path, str | None], Any]] = {
    "tensorboard": _start_tensorboard,
    "mlflow": _start_mlflow,
    "wandb": _start_wandb,
}


def _started(tracker: Any) -> Any:
    tracker.start()
    return tracker


def _run_id(name: str, tracker: Any) -> str:
    if name == "mlflow":
        return str(tracker.tracker.info.run_id)
    return str(tracker.tracker.id) if name == "wandb" else "tensorboard"


def _log_image(name: str, tracker: Any, path: Path, image: Image.Image, step: int) -> None:
    if name == "mlflow":
        tracker.log_artifact(str(path), "samples")
    elif name == "wandb":
        tracker.log_images({"samples": [image]}, step=step)
    else:
        tracker.log_images({"samples": np.asarray(image)[None]}, step=step, dataformats="NHWC")


def _read_kept(path: Path) -> dict[str, str]:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(run_id) for name, run_id in kept.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _step(seen_kimg: float) -> int:
    return round(seen_kimg * 1000)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
