"""From a generator and prepared splits to a balanced data set on disk, gate included."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.balance.plan import as_plan
from signforge.balance.strategy import POLICIES, resolve_sampling_strategy
from signforge.config import CLASSIFIER_RUNNING_KEYS, Config
from signforge.data.encode import class_folders
from signforge.data.images import LabeledImages
from signforge.data.splits import PreparedSplits
from signforge.errors import SignforgeError
from signforge.export.folder import GATE, SPLITS, ExportReport, open_export
from signforge.export.images import export_images
from signforge.files import remove_leftovers
from signforge.gan.sampler import GanSampler
from signforge.progress import Track, no_progress

if TYPE_CHECKING:
    from signforge.balance.classifier_gate import ClassifierGate

_FREE_CLASSIFIER_KEYS = {"steps", *CLASSIFIER_RUNNING_KEYS, "device", "compile"}
"""They do not concern the gate (``balance.gate_steps`` does), or only how fast it is made."""


def export_balanced(
    sampler: GanSampler,
    config: Config,
    splits: PreparedSplits,
    out: Path,
    *,
    also: Sequence[str] = (),
    epoch: int = 0,
    seed: int = 0,
    track: Track = no_progress,
) -> ExportReport:
    """Writes ``splits.train``, filled up by ``sampler``, and the splits of ``also``.

    ``config.balance`` says how classes are filled up. With ``gate_tau`` above 0 a ClassifierGate
    is fitted on the training split first and kept in ``out/gate``, so that an export that is
    taken up again judges by the same one.

    also: of "val" and "test"; written as they are.
    epoch, seed: which of the synthetic images; see SyntheticBalancedDataset.

    Warns where the generator was trained on other images than this training split, and as gate
    and data set do. Raises SignforgeError for that together with ``also``, and as ``open_export``
    and ``SyntheticBalancedDataset`` do; nothing is written before what is wrong with the request
    has been said.
    """
    wrong = next((name for name in also if name not in SPLITS[1:]), None)
    if wrong is not None:
        raise SignforgeError(f"Cannot export {wrong!r} beside train: there are val and test.")
    _check_generator(sampler, splits.train, also)
    targets = resolve_sampling_strategy(
        config.balance.sampling_strategy,
        splits.train.class_counts,
        class_names=splits.train.class_names,
        max_synthetic_fraction=config.balance.max_synthetic_fraction,
    )
    chosen = [name for name in SPLITS if name == "train" or name in also]
    folders = class_folders(splits.train.class_names)
    plan = as_plan(config.balance.sampling_strategy)
    oversampled = (
        torch.zeros_like(targets, dtype=torch.bool) if plan is None else plan.oversampled()
    )
    request = {
        "splits": chosen,
        "epoch": epoch,
        "seed": seed,
        "config": _binding_config(config),
        "fingerprints": {
            "generator": sampler.fingerprint,
            **{name: getattr(splits, name).fingerprint for name in chosen},
        },
        "target_counts": dict(zip(folders, targets.tolist(), strict=True)),
        "oversampled_classes": [folders[label] for label in oversampled.nonzero().flatten()],
    }
    finished = open_export(out, request)
    if finished is not None:
        return finished
    gate = None
    synthetic = (targets > splits.train.class_counts) & ~oversampled
    if config.balance.gate_tau > 0 and bool(synthetic.any()):
        gate = _gate(out, config, splits.train, seed, track)
        for note in gate.notes:
            warnings.warn(note, stacklevel=2)
    dataset = SyntheticBalancedDataset(
        splits.train,
        sampler,
        sampling_strategy=config.balance.sampling_strategy,
        max_synthetic_fraction=config.balance.max_synthetic_fraction,
        gate=gate,
        min_acceptance=config.balance.min_acceptance,
        refresh=config.balance.refresh,
        seed=seed,
        track=track,
    )
    dataset.set_epoch(epoch, track=track)
    return export_images(
        {name: dataset if name == "train" else getattr(splits, name) for name in chosen},
        out,
        request=request,
        facts=_facts(splits, sampler, dataset, gate),
        track=track,
    )


def _check_generator(sampler: GanSampler, train: LabeledImages, also: Sequence[str]) -> None:
    if sampler.class_names != train.class_names:
        ours, theirs = train.class_names, sampler.class_names
        pairs = zip(ours, theirs, strict=False)
        different = next((pair for pair in pairs if pair[0] != pair[1]), None)
        detail = f"{different[1]!r} is not {different[0]!r}" if different else "another number"
        raise SignforgeError(
            f"The generator's {len(theirs)} classes are not the data's {len(ours)} ({detail}); "
            "use the data that it was trained on, or a generator of these classes."
        )
    if sampler.card.train_fingerprint == train.fingerprint:
        return
    seen = "The generator was trained on other images than this training split and may have seen"
    if also:
        raise SignforgeError(
            f"{seen} those of {' and '.join(also)}, which then prove nothing; use the data options "
            "that it was trained with (config.yaml of its run), or leave out --also."
        )
    warnings.warn(f"{seen} images that you test on later.", stacklevel=3)


def _binding_config(config: Config) -> dict[str, Any]:
    """What decides the images, by section; paths are left to the fingerprints and counts."""
    balance = config.balance.model_dump(mode="json")
    strategy = config.balance.sampling_strategy
    if isinstance(strategy, str) and strategy not in POLICIES:
        balance["sampling_strategy"] = Path(strategy).name
    sections = {"data": config.data.model_dump(mode="json", exclude={"source"}), "balance": balance}
    if config.balance.gate_tau > 0:
        sections["classifier"] = config.classifier.model_dump(
            mode="json", exclude=_FREE_CLASSIFIER_KEYS
        )
    return sections


def _gate(
    out: Path, config: Config, train: LabeledImages, seed: int, track: Track
) -> "ClassifierGate":
    """The gate that an earlier start left in ``out/gate``, else a new one, which is kept there."""
    from signforge.balance.classifier_gate import ClassifierGate, fit_classifier_gate

    folder, unfinished = out / GATE, out / f".{GATE}.tmp"
    if folder.is_dir():
        return ClassifierGate.load(folder, config.classifier.device)
    gate = fit_classifier_gate(
        train,
        config=config.classifier.model_copy(update={"steps": config.balance.gate_steps}),
        tau=config.balance.gate_tau,
        folds=config.balance.gate_folds,
        seed=seed,
        track=track,
    )
    remove_leftovers(out)
    gate.save(unfinished)
    unfinished.replace(folder)
    return gate


def _facts(
    splits: PreparedSplits,
    sampler: GanSampler,
    dataset: SyntheticBalancedDataset,
    gate: "ClassifierGate | None",
) -> Mapping[str, Any]:
    folders = class_folders(dataset.class_names)
    facts: dict[str, Any] = {
        "source": splits.source,
        "generator_saw_only_train": sampler.card.train_fingerprint == splits.train.fingerprint,
        "gate": None,
    }
    if gate is not None:
        facts["gate"] = {
            "tau": gate.tau,
            "acceptance": _by_folder(folders, dataset.acceptance),
            "real_acceptance": _by_folder(folders, gate.real_acceptance),
        }
    return facts


def _by_folder(folders: Sequence[str], shares: Tensor) -> dict[str, float | None]:
    """None for NaN, which JSON does not know."""
    values = [None if torch.isnan(share) else round(float(share), 4) for share in shares]
    return dict(zip(folders, values, strict=True))
