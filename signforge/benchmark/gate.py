"""The gate of a benchmark: fitted once on the training split, shared by all its arms and seeds."""

import time
from dataclasses import dataclass
from pathlib import Path

from signforge.balance.classifier_gate import CARD, ClassifierGate, GateCard, fit_classifier_gate
from signforge.benchmark.folder import read_json, write_json
from signforge.config import CLASSIFIER_RUNNING_KEYS, BalanceConfig, ClassifierConfig
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.progress import Track, no_progress

GATE_SEED = 1_000_003
"""Far from the seeds of arms, so that no classifier is judged by a gate of its own weights."""
_COST = "cost.json"


@dataclass(frozen=True)
class FittedGate:
    """seconds: wall-clock time that fitting it took."""

    gate: ClassifierGate
    seconds: float


def is_kept(folder: Path) -> bool:
    """Whether ``folder`` holds a finished gate."""
    return (folder / CARD).is_file()


def kept_gate(
    balance: BalanceConfig,
    classifier: ClassifierConfig,
    train: LabeledImages,
    folder: Path,
    *,
    track: Track = no_progress,
) -> FittedGate | None:
    """The gate that ``balance`` asks for, from ``folder``, or else fitted to ``train`` and saved
    there; None for ``gate_tau`` 0, which asks for none.

    Its classifiers are like the benchmark's, but train for ``balance.gate_steps``.

    Raises SignforgeError where ``folder`` holds a gate of other data or settings, and as
    ``fit_classifier_gate`` does.
    """
    if not balance.gate_tau:
        return None
    config = classifier.model_copy(update={"steps": balance.gate_steps})
    if is_kept(folder):
        gate = ClassifierGate.load(folder, config.device)
        wanted = (train.fingerprint, config, balance.gate_tau, balance.gate_folds)
        if _identity(gate.card) != _comparable(*wanted):
            raise SignforgeError(
                f"{folder} holds a gate of other data or other settings; remove that folder, or "
                "choose another run directory."
            )
        return FittedGate(gate, float(read_json(folder / _COST)["seconds"]))
    started = time.perf_counter()
    gate = fit_classifier_gate(
        train,
        config=config,
        tau=balance.gate_tau,
        folds=balance.gate_folds,
        seed=GATE_SEED,
        track=track,
    )
    seconds = round(time.perf_counter() - started, 3)
    folder.mkdir(parents=True, exist_ok=True)
    # The card comes last: it vouches for all that lies beside it.
    write_json(folder / _COST, {"seconds": seconds})
    gate.save(folder)
    return FittedGate(gate, seconds)


def _identity(card: GateCard) -> tuple[object, ...]:
    return _comparable(card.train_fingerprint, card.classifier, card.tau, card.folds)


def _comparable(
    train_fingerprint: str, classifier: ClassifierConfig, tau: float, folds: int
) -> tuple[object, ...]:
    settings = classifier.model_dump(exclude={*CLASSIFIER_RUNNING_KEYS})
    return (train_fingerprint, settings, tau, folds)
