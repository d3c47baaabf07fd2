"""A run as a folder for the Hugging Face Hub: the generator's two files and its card, no more."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from signforge.errors import SignforgeError
from signforge.files import sha256, write_atomically
from signforge.gan.hub import CARD_FILE, README_FILE
from signforge.gan.model_card import CardFacts, Licence, model_card, number_at
from signforge.gan.sampler import GeneratorCard, load_sampler, read_generator

_FIDELITY_NUMBERS = (
    *("n", "fd", "fd_floor", "kid", "kid_floor"),
    *("macro_label_agreement", "real_label_agreement", "worst_class_label_agreement"),
)


def hub_files(
    run: Path,
    licence: Licence,
    address: str,
    *,
    data_name: str | None = None,
    fidelity: Path | None = None,
) -> dict[str, bytes]:
    """``{name: content}``: the two files of ``run`` as they are, and README.md about them.

    address: where they will lie, for the card's example: a ``HubAddress`` as text, or a word.
    data_name: by default the last part of the path that the run was trained on.
    fidelity: a benchmark's fidelity.json; by default the run's own, where it has one.

    Raises SignforgeError where the run holds no generator that ``load_sampler`` takes, where one
    of its files is damaged or of another training, and for a ``fidelity`` of another generator.
    """
    card = load_sampler(run, "cpu").card
    read, files = read_generator(run)
    if read != card:
        raise SignforgeError(f"{run} changed while it was read; push it again.")
    dataset = _read_dataset(run / "dataset.json", card)
    own_fidelity = run / "fidelity.json"
    if fidelity is None and own_fidelity.is_file():
        fidelity = own_fidelity
    facts = CardFacts(
        generator=card,
        card_sha256=sha256(files[CARD_FILE]),
        licence=licence,
        address=address,
        data_name=data_name or (_name_of(dataset["source"]) if dataset else "unnamed images"),
        num_validation=dataset["splits"]["val"]["images"] if dataset else None,
        num_test=dataset["splits"]["test"]["images"] if dataset else None,
        environment=_read_environment(run / "environment.json"),
        probe=_read_probe(run / "metrics.jsonl", card),
        fidelity=_read_fidelity(fidelity, card) if fidelity else None,
    )
    return {**files, README_FILE: model_card(facts).encode()}


def write_hub_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes ``files`` into a folder that holds nothing else, so that it may be uploaded whole.

    Raises SignforgeError where it does hold something else, or cannot be written.
    """
    others = (
        sorted({path.name for path in folder.iterdir()} - set(files)) if folder.exists() else []
    )
    if others:
        raise SignforgeError(
            f"--out {folder} holds other files ({others[0]}); give a new or empty folder, so that "
            "nothing else is published with it."
        )
    for name, content in files.items():
        write_atomically(folder / name, content)


def _name_of(source: str) -> str:
    """The end of a path: where images lie on a machine is nobody else's business."""
    if source == "demo":
        return "demo (signs drawn in code by signforge)"
    return PurePath(source.replace("\\", "/")).name or "unnamed images"


def _read_dataset(path: Path, card: GeneratorCard) -> dict[str, Any] | None:
    found = _read_json(path)
    if found is None:
        return None
    try:
        fingerprint = found["splits"]["train"]["fingerprint"]
        counts = [found["splits"][name]["images"] for name in ("val", "test")]
        if not isinstance(found["source"], str) or not all(isinstance(n, int) for n in counts):
            raise TypeError
    except (LookupError, TypeError):
        raise _damaged(path) from None
    if fingerprint != card.train_fingerprint:
        raise SignforgeError(
            f"{path} describes other images than those that the generator was trained on; "
            "push the folder that train-cgan wrote."
        )
    return found


def _read_environment(path: Path) -> dict[str, Any] | None:
    found = _read_json(path)
    if found is None:
        return None
    try:
        for key in ("cpu", "cores", "gpu"):
            found["hardware"][key]
        return {
            "versions": {str(k): str(v) for k, v in found["versions"].items() if v},
            "hardware": found["hardware"],
            "commit": found["commit"],
            "dirty": found["dirty"],
        }
    except (LookupError, TypeError, AttributeError):
        raise _damaged(path) from None


def _read_probe(path: Path, card: GeneratorCard) -> dict[str, Any] | None:
    """The line of the state that became the generator, if a probe judged it."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        found = [line for line in lines if line["seen_kimg"] == card.seen_kimg and "fd" in line]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError):
        raise _damaged(path) from None
    keys = ("fd", "fd_ratio", "label_agreement", "worst_class_label_agreement")
    values = {key: number_at(found[-1], key) for key in keys} if found else {}
    return {key: value for key, value in values.items() if value is not None} or None


def _read_fidelity(path: Path, card: GeneratorCard) -> dict[str, Any]:
    found = _read_json(path)
    if found is None:
        raise SignforgeError(f"--fidelity {path} does not exist; give a benchmark's fidelity.json.")
    texts = ("metric_name", "extractor", "extractor_sha256", "sampler_fingerprint")
    numbers = [number_at(found, key) for key in _FIDELITY_NUMBERS]
    if None in numbers or not all(isinstance(found.get(key), str) for key in texts):
        raise _damaged(path)
    if found["sampler_fingerprint"] != card.weights_sha256:
        raise SignforgeError(
            f"{path} was measured with another generator ({found['sampler_fingerprint']:.12}, this "
            f"one is {card.weights_sha256:.12}); give the file of a benchmark that used this one."
        )
    return found


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise _damaged(path) from None
    if not isinstance(found, dict):
        raise _damaged(path)
    return found


def _damaged(path: Path) -> SignforgeError:
    return SignforgeError(f"{path} cannot be read as signforge writes it; restore or remove it.")
