"""The benchmark's run directory: what is in it, how it is written so that a kill loses one job.

config.yaml, dataset.json and environment.json say what was run; rows.jsonl gains one line per
finished job; predictions/ holds the predicted class of every test image, and predictions/val/ of
every validation image, so that anyone can recompute every figure.
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from signforge.benchmark.clusters import Split
from signforge.config import CLASSIFIER_RUNNING_KEYS, Config
from signforge.config_file import dump_config, load_config
from signforge.errors import SignforgeError
from signforge.files import write_atomically

Row = dict[str, Any]
Labels = npt.NDArray[np.int16]
Groups = npt.NDArray[np.int64]
STRATEGY_SHA256 = "sampling_strategy_sha256"
"""Key of dataset.json, where balance.sampling_strategy is the path of a file."""
MOST_CLASSES = np.iinfo(np.int16).max
Kind = TypeVar("Kind", np.int16, np.int64)
FREE_KEYS = (
    "benchmark.arms",
    "benchmark.seeds",
    "benchmark.first_seed",
    "benchmark.bootstrap_resamples",
    "benchmark.cas_steps",
    "benchmark.inception_weights",
    "benchmark.inception_images",
    "benchmark.budget",
    *(f"classifier.{key}" for key in CLASSIFIER_RUNNING_KEYS),
    "gan.deterministic",
)
"""Config keys that change which rows there are, or how they are read, but no row itself."""


def open_run(
    run_dir: Path,
    config: Config,
    dataset: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
) -> None:
    """Makes the folder, or takes up one that holds rows of the very same config and data.

    dataset: as ``describe_dataset`` makes it. A generator may be added to a folder without one; a
        call that needs none leaves what the folder knows of generator and gate.
    environment: of the first call, which is kept. command: joins those of earlier calls.

    Raises SignforgeError naming the config keys, split or generator that differ.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SignforgeError(f"Cannot write {run_dir}: {error.strerror}.") from None
    with _turn(run_dir):
        if _is_begun(run_dir):
            check_run(run_dir, config, dataset)
            dataset = _with_what_is_known(dataset, read_json(run_dir / "dataset.json"))
            environment = read_json(run_dir / "environment.json")
        commands = dict.fromkeys([*commands_of(environment), command])
        write_json(run_dir / "environment.json", {**environment, "commands": [*commands]})
        write_json(run_dir / "dataset.json", dataset)
        write_atomically(run_dir / "config.yaml", dump_config(config).encode())


def check_run(run_dir: Path, config: Config, dataset: Mapping[str, Any]) -> None:
    """Raises what ``open_run`` would raise for these arguments, and writes nothing."""
    if _is_begun(run_dir):
        _compare_config(run_dir, config)
        _compare_dataset(run_dir, dataset)


def known_generator(run_dir: Path) -> str | None:
    """Fingerprint of the generator that rows of the folder were made with, if any were."""
    if not _is_begun(run_dir):
        return None
    generator = read_json(run_dir / "dataset.json")["generator"]
    return generator["fingerprint"] if generator else None


def _is_begun(run_dir: Path) -> bool:
    return (run_dir / "config.yaml").exists() and (run_dir / "dataset.json").exists()


def _turn(run_dir: Path) -> FileLock:
    """Held while files that several processes share are read and written again."""
    return FileLock(run_dir / ".rows.lock")


def _with_what_is_known(dataset: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """``dataset`` with the generator and gate of an earlier call, where it names none itself."""
    known = {key: before[key] for key in ("generator", "gate") if before.get(key)}
    named = {key: value for key, value in dataset.items() if value is not None}
    notes = dict.fromkeys([*dataset["notes"], *(before["notes"] if known else ())])
    return {**dataset, **known, **named, "notes": [*notes]}


def commands_of(environment: Mapping[str, Any]) -> list[str]:
    """The commands that made the rows, first to last; environment: as in environment.json."""
    # Folders of signforge 0.1.0 know one command.
    commands = environment.get("commands", [environment.get("command", "")])
    return [command for command in commands if command]


def config_hash(config: Config) -> str:
    """SHA-256 (hex) of the config keys that a row depends on."""
    text = json.dumps(_binding_keys(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_rows(run_dir: Path) -> list[Row]:
    """All finished rows, in the order they finished; a line cut off by a kill is left out.

    Raises SignforgeError for a line that is complete but no row.
    """
    path = run_dir / "rows.jsonl"
    if not path.exists():
        return []
    rows = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            if not {"arm", "seed"} <= set(row):
                raise ValueError
        except (ValueError, TypeError):
            raise SignforgeError(
                f"{path}, line {number}, is not a benchmark row; remove the line to have that job "
                "repeated."
            ) from None
        rows.append(row)
    return rows


def finished_rows(run_dir: Path, config: Config) -> dict[tuple[str, int], Row]:
    """The rows of ``config`` by arm and seed. Raises SignforgeError as ``read_rows``."""
    identity = config_hash(config)
    rows = read_rows(run_dir)
    return {(row["arm"], row["seed"]): row for row in rows if row.get("config_hash") == identity}


def append_row(run_dir: Path, row: Mapping[str, Any]) -> None:
    """Adds one line and waits until the disk has it; a cut-off line before it is removed.

    Processes that add to one file take turns.
    """
    line = json.dumps(row, allow_nan=False).encode() + b"\n"
    path = run_dir / "rows.jsonl"
    with _turn(run_dir):
        path.touch()
        with path.open("r+b") as file:
            content = file.read()
            file.seek(content.rfind(b"\n") + 1)
            file.truncate()
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def write_predictions(
    run_dir: Path, arm: str, seed: int, predictions: Labels, split: Split = "test"
) -> None:
    """predictions: (N,) predicted class of each image of the split."""
    _save_array(_predictions_path(run_dir, arm, seed, split), predictions.astype(np.int16))


def read_predictions(run_dir: Path, arm: str, seed: int, split: Split = "test") -> Labels:
    """(N,) as written. Raises SignforgeError where the file is missing or no such array."""
    return _load_array(_predictions_path(run_dir, arm, seed, split), np.int16)


def has_predictions(run_dir: Path, arm: str, seed: int, split: Split) -> bool:
    """Whether they were written; rows of older versions have none of the validation split."""
    return _predictions_path(run_dir, arm, seed, split).exists()


def write_target(run_dir: Path, target: Labels, split: Split = "test") -> None:
    """target: (N,) true class of each image of the split, in the order of the predictions."""
    _save_array(_folder_of(run_dir, split) / "target.npy", target.astype(np.int16))


def read_target(run_dir: Path, split: Split = "test") -> Labels:
    """(N,) as written; raises as ``read_predictions``."""
    return _load_array(_folder_of(run_dir, split) / "target.npy", np.int16)


def write_groups(run_dir: Path, groups: Groups, split: Split) -> None:
    """groups: (N,) group of each image of the split, in the order of the predictions; negative
    where it is unknown.
    """
    _save_array(_folder_of(run_dir, split) / "groups.npy", groups.astype(np.int64))


def read_groups(run_dir: Path, split: Split) -> Groups | None:
    """(N,) as written, None where they were not; raises as ``read_predictions``."""
    path = _folder_of(run_dir, split) / "groups.npy"
    return _load_array(path, np.int64) if path.exists() else None


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Raises SignforgeError where the file is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SignforgeError(f"Cannot read {path}: {error.strerror}.") from None
    except ValueError:
        raise SignforgeError(f"{path} is not valid JSON.") from None


def _binding_keys(config: Config) -> dict[str, Any]:
    flat = {
        f"{section}.{key}": value
        for section, values in config.model_dump(mode="json").items()
        for key, value in values.items()
    }
    return {key: value for key, value in flat.items() if key not in FREE_KEYS}


def _compare_config(run_dir: Path, config: Config) -> None:
    before, now = _binding_keys(load_config(run_dir / "config.yaml")), _binding_keys(config)
    changes = [f"{k} was {before[k]!r}, is {now[k]!r}" for k in now if before[k] != now[k]]
    if changes:
        raise SignforgeError(
            f"{run_dir} holds rows of another config ({'; '.join(changes)}); "
            "go back to that config or choose another folder."
        )


def _compare_dataset(run_dir: Path, dataset: Mapping[str, Any]) -> None:
    before = read_json(run_dir / "dataset.json")
    for split, now in dataset["splits"].items():
        if before["splits"][split]["fingerprint"] != now["fingerprint"]:
            raise SignforgeError(
                f"{run_dir} holds rows of another data set: the {split} split differs; "
                "choose another folder."
            )
    then, now = before.get(STRATEGY_SHA256), dataset.get(STRATEGY_SHA256)
    if then and now and then != now:
        raise SignforgeError(
            f"{run_dir} holds rows made with another content of the file that "
            "balance.sampling_strategy names; choose another folder."
        )
    then, now = before["generator"], dataset["generator"]
    if then and now and then["fingerprint"] != now["fingerprint"]:
        raise SignforgeError(
            f"{run_dir} holds rows made with another generator; choose another folder."
        )


def _folder_of(run_dir: Path, split: Split) -> Path:
    folder = run_dir / "predictions"
    return folder if split == "test" else folder / split


def _predictions_path(run_dir: Path, arm: str, seed: int, split: Split) -> Path:
    return _folder_of(run_dir, split) / f"{arm}-seed{seed}.npy"


def _save_array(path: Path, array: Labels | Groups) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def _load_array(path: Path, dtype: type[Kind]) -> npt.NDArray[Kind]:
    try:
        array = np.load(path, allow_pickle=False)
    except OSError as error:
        raise SignforgeError(f"Cannot read {path}: {error.strerror}.") from None
    except (ValueError, EOFError):
        raise SignforgeError(f"{path} is not a whole .npy file of predictions.") from None
    if array.dtype != dtype or array.ndim != 1:
        raise SignforgeError(
            f"{path} must hold {np.dtype(dtype)} (N,), got {array.dtype} {array.shape}."
        )
    checked: npt.NDArray[Kind] = array
    return checked
