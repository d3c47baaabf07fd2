"""TensorBoard, MLflow and Weights & Biases, through the trackers of Hugging Face accelerate.

Extras, all of them: nothing is imported unless a tracker is asked for. The run directory stays the
record; a tracker that fails in the middle of a run is given up, and the run goes on. MLflow gets
the files of a run as well, as they are: weights as safetensors, nothing pickled.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

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
GENERATOR_FILES = ("generator.json", "generator.safetensors")
TRAINING_FILES = (
    *("config.yaml", "dataset.json", "environment.json", "metrics.jsonl"),
    *("real.png", "samples.png", "curves.png", "film.gif", "film.png"),
)

Params = Mapping[str, str | int | float | bool]


class Trackers:
    """Some trackers, opened by ``open`` or with what is logged first, and told when it is over.

    names: keys of ``PACKAGES``, checked by ``check_trackers`` before. folder: run directory, whose
    name the run gets. params: logged once a run. on_problem: gets a sentence about each tracker
    that fails later. kept: file with the ids of an earlier session that is to be gone on with;
    None always begins a run.

    In a run of several processes only the one that writes the run directory may call it.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        params: Params,
        on_problem: Callable[[str], None],
        *,
        kept: Path | None = None,
    ) -> None:
        self._names = names
        self._folder = folder
        self._params = params
        self._on_problem = on_problem
        self._kept = kept
        self._opened: dict[str, Any] | None = None
        self._told_of_image = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Raises SignforgeError where a tracker cannot be opened; the others are then closed."""
        if self._opened is None:
            self._opened = self._open()

    @property
    def opened(self) -> bool:
        """Whether there was anything to open them for."""
        return self._opened is not None

    def log_values(self, values: Mapping[str, float], step: int) -> None:
        """Numbers by name. Raises SignforgeError as ``open`` does, as all that log do."""
        self._each(lambda _name, tracker: tracker.log(dict(values), step=step))

    def log_image(self, key: str, path: Path, step: int) -> None:
        """A PNG; for MLflow as an artifact in the folder ``key``.

        The others get pixels: one that cannot be decoded they do without, as is said once.
        """
        if not self._names:
            return
        try:
            image = decode_image(path.read_bytes(), str(path))
        except (OSError, SignforgeError):
            image = None
            if not self._told_of_image:
                self._told_of_image = True
                self._on_problem(
                    f"{path} is too large for trackers, or cannot be read: only MLflow gets such "
                    "files; the run goes on."
                )
        self._each(lambda name, tracker: _log_image(name, tracker, key, path, image, step))

    def log_text(self, key: str, text: str) -> None:
        """A sentence; for MLflow as a tag and as the run's description."""
        self._each(lambda name, tracker: _log_text(name, tracker, key, text))

    def log_files(self, folder: str, names: Sequence[str]) -> None:
        """Those files of the run directory that are there, for MLflow alone, into ``folder``."""
        paths = [self._folder / name for name in names if (self._folder / name).is_file()]
        self._each(lambda name, tracker: _log_files(name, tracker, folder, paths))

    def close(self) -> None:
        """Tells each tracker that the run is over."""
        if self._opened:
            self._each(_finish)

    def _each(self, act: Callable[[str, Any], None]) -> None:
        self.open()
        opened = self._opened or {}
        for name, tracker in list(opened.items()):
            try:
                act(name, tracker)
            except Exception as error:
                del opened[name]
                self._on_problem(
                    f"{name} failed ({_first_line(error)}); the run goes on without it, and "
                    f"{self._folder} has all that it was to get."
                )

    def _open(self) -> dict[str, Any]:
        opened: dict[str, Any] = {}
        if not self._names:
            return opened
        from accelerate import PartialState

        PartialState()  # accelerate's trackers ask it which process is the main one
        kept = _read_kept(self._kept) if self._kept else {}
        for name in dict.fromkeys(self._names):
            try:
                opened[name] = _START[name](self._folder, kept.get(name))
                run_id = _run_id(name, opened[name])
                if kept.get(name) != run_id:
                    opened[name].store_init_configuration(dict(self._params))
                    kept[name] = run_id
            except Exception as error:
                for other, tracker in opened.items():
                    with suppress(Exception):  # the first error is the one to be told
                        _finish(other, tracker)
                raise SignforgeError(
                    f"The tracker {name} cannot be opened: {_first_line(error)}; mend that, or "
                    f"leave {name} out of gan.trackers."
                ) from error
        if self._kept:
            write_atomically(self._kept, json.dumps(kept, indent=2).encode())
        return opened


class TrainingTrackers(Trackers):
    """What ``gan.trackers`` names, for a training run; steps are images seen."""

    def __init__(self, config: Config, run: Path, on_problem: Callable[[str], None]) -> None:
        params = flat_config(config)
        super().__init__(config.gan.trackers, run, params, on_problem, kept=run / KEPT)

    def log_status(self, status: Status) -> None:
        """Every number of ``status``; of collapsed classes how many, of the worst not which."""
        values = {key: value for key, value in asdict(status).items() if value is not None}
        values.pop("worst_class", None)
        if status.collapsed_classes is not None:
            values["collapsed_classes"] = len(status.collapsed_classes)
        self.log_values(values, _step(values.pop("seen_kimg")))

    def log_grid(self, path: Path, seen_kimg: float) -> None:
        """A PNG of samples."""
        self.log_image("samples", path, _step(seen_kimg))

    def close(self) -> None:
        """First hands over what the run has left: the generator, its record and its pictures."""
        if self.opened:
            self.log_files("generator", GENERATOR_FILES)
            self.log_files("training", TRAINING_FILES)
        super().close()


@contextmanager
def open_trackers(
    config: Config, run: Path, on_problem: Callable[[str], None] = lambda _text: None
) -> Iterator[TrainingTrackers]:
    """The trackers of ``config.gan.trackers``, closed at the end; none is fine.

    on_problem: gets a sentence about each tracker that fails while the run goes on.
    Raises SignforgeError at once for a package that is missing.
    """
    check_trackers(config.gan.trackers)
    with TrainingTrackers(config, run, on_problem) as trackers:
        yield trackers


@contextmanager
def track_generated(
    names: Sequence[str],
    run: Path,
    grid: Path,
    params: Params,
    on_problem: Callable[[str], None],
) -> Iterator[None]:
    """A run of its own for images that are drawn inside: how they are, and their grid at the end.

    run: whose name it gets. Raises SignforgeError at once for a tracker that cannot be opened.
    """
    asked = {f"generate.{key}": value for key, value in params.items()}
    with Trackers(names, run, asked, on_problem) as trackers:
        trackers.open()
        yield
        trackers.log_image("generated", grid, 0)


def check_trackers(names: Sequence[str]) -> None:
    """Raises SignforgeError for an unknown name and, with the pip command, a missing package."""
    for name in names:
        if name not in PACKAGES:
            raise SignforgeError(f"There is no tracker {name!r}; there are {', '.join(PACKAGES)}.")
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


def _start_tensorboard(folder: Path, _known: str | None) -> Any:
    from accelerate.tracking import TensorBoardTracker

    return _started(TensorBoardTracker("tensorboard", logging_dir=str(folder)))


def _start_mlflow(folder: Path, known: str | None) -> Any:
    from accelerate.tracking import MLflowTracker

    # With a server, mlflow prints addresses on stdout, which is for our own output.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    return _started(MLflowTracker(_mlflow_experiment(), run_id=known, run_name=folder.name))


def _start_wandb(folder: Path, known: str | None) -> Any:
    from accelerate.tracking import WandBTracker

    name = folder.name
    return _started(WandBTracker(PROJECT, name=name, dir=str(folder), id=known, resume="allow"))


_START: dict[str, Callable[[Path, str | None], Any]] = {
    "tensorboard": _start_tensorboard,
    "mlflow": _start_mlflow,
    "wandb": _start_wandb,
}


def _mlflow_experiment() -> str:
    """Ours, or the one in which ``mlflow run`` has made a run for us: it says so by id alone."""
    chosen = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if chosen is None:
        return PROJECT
    import mlflow

    return str(mlflow.get_experiment(chosen).name)


def _started(tracker: Any) -> Any:
    tracker.start()
    return tracker


def _finish(name: str, tracker: Any) -> None:
    """Keeps in the environment which run ``mlflow run`` has made: MLflow clears it, and a benchmark
    that has trained its GAN goes on logging there."""
    made = os.environ.get("MLFLOW_RUN_ID")
    tracker.finish()
    if name == "mlflow" and made is not None:
        os.environ["MLFLOW_RUN_ID"] = made


def _run_id(name: str, tracker: Any) -> str:
    if name == "mlflow":
        return str(tracker.tracker.info.run_id)
    return str(tracker.tracker.id) if name == "wandb" else "tensorboard"


def _log_image(
    name: str, tracker: Any, key: str, path: Path, image: Image.Image | None, step: int
) -> None:
    if name == "mlflow":
        tracker.log_artifact(str(path), key)
    elif image is None:
        return
    elif name == "wandb":
        tracker.log_images({key: [image]}, step=step)
    else:
        tracker.log_images({key: np.asarray(image)[None]}, step=step, dataformats="NHWC")


def _log_text(name: str, tracker: Any, key: str, text: str) -> None:
    if name != "mlflow":
        tracker.log({key: text})
        return
    import mlflow

    mlflow.set_tags({key: text, "mlflow.note.content": text})


def _log_files(name: str, tracker: Any, folder: str, paths: Sequence[Path]) -> None:
    if name == "mlflow":
        for path in paths:
            tracker.log_artifact(str(path), folder)


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
