"""ClassifierGate: keeps a sample that classifiers of real images recognise as its class.

The classifiers come from group-wise cross-fitting, so the real images can be judged by one that
never saw their group: the share of them that passes is what acceptance is to be read against.
Filtering samples by a classifier follows GaFi (Lampis et al. 2023); training with logits shifted by
the log class counts (Menon et al. 2020, 2007.07314, equation 10) makes the softmax the posterior
under equal priors, so that a sample is not rejected for being of a rare class.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from signforge.balance.drawing import resize
from signforge.balance.folds import group_folds, single_group_classes
from signforge.classify.losses import Loss, logit_adjusted
from signforge.classify.model import build_classifier
from signforge.classify.training import fit_classifier, predict_logits
from signforge.config import ClassifierConfig, Section
from signforge.data.images import LabeledImages
from signforge.device import resolve_device
from signforge.errors import SignforgeError
from signforge.files import sha256, write_atomically
from signforge.progress import Track, no_progress
from signforge.seeds import derive_seed

MAX_FOLDS = 64
CARD, WEIGHTS = "gate.json", "gate.safetensors"
_REAL_LABELS, _REAL_PROBABILITIES = "real_labels", "real_probabilities"


class GateCard(Section):
    """gate.json: what the gate is, and what it was made from."""

    format: Literal["signforge-classifier-gate-1"] = "signforge-classifier-gate-1"
    classifier: ClassifierConfig
    resolution: int = Field(ge=1, le=1024)
    class_names: tuple[str, ...] = Field(min_length=2)
    tau: float = Field(ge=0, le=1)
    folds: int = Field(ge=2, le=MAX_FOLDS)
    seed: int
    train_fingerprint: str
    single_group_classes: tuple[int, ...]
    """Classes whose real images all show one physical sign, also where there is one image."""
    weights_sha256: str


@dataclass(frozen=True, eq=False)
class ClassifierGate:
    """A gate for ``SyntheticBalancedDataset``; see ``fit_classifier_gate``.

    models: one classifier a fold, in evaluation mode.
    real_labels: int64 (N,), of the training images.
    real_probabilities: float32 (N,), the probability that each training image has its own class,
        by the classifier that never saw its group; NaN for the only image of a class.
    """

    card: GateCard
    models: tuple[nn.Module, ...]
    real_labels: Tensor
    real_probabilities: Tensor

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Which images to keep: those with ``probabilities`` of at least tau, bool (N,)."""
        return self.probabilities(images, labels) >= self.card.tau

    def probabilities(self, images: Tensor, labels: Tensor) -> Tensor:
        """How likely each image shows its class: the mean over the folds, float32 (N,), 0..1.

        images: uint8 (N, 3, H, W), brought to the resolution of the classifiers.
        labels: int64 (N,). Both on the CPU.

        Raises SignforgeError for images of another kind and labels that are no class.
        """
        if len(labels) == 0:
            return torch.zeros(0)
        if int(labels.min()) < 0 or int(labels.max()) >= len(self.class_names):
            raise SignforgeError(
                f"Labels must lie in 0..{len(self.class_names) - 1} for this gate, got "
                f"{int(labels.min())}..{int(labels.max())}."
            )
        side = self.card.resolution
        fitting = resize(images, (side, side))
        precision = self.card.classifier.precision
        each = [own_probability(model, fitting, labels, precision) for model in self.models]
        return torch.stack(each).mean(dim=0)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.card.class_names

    @property
    def tau(self) -> float:
        return self.card.tau

    @cached_property
    def real_acceptance(self) -> Tensor:
        """Share of each class's real training images that pass: float64 (C,).

        Each is judged by the one classifier that never saw its group, alone. NaN for a class
        with fewer than two images. ``notes`` names these of one image, and the classes that were
        judged on signs that are known.
        """
        judged = ~self.real_probabilities.isnan()
        labels, num_classes = self.real_labels[judged], len(self.class_names)
        kept = (self.real_probabilities[judged] >= self.tau).double()
        counts = torch.bincount(labels, minlength=num_classes)
        return torch.bincount(labels, weights=kept, minlength=num_classes) / counts

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user about what cross-fitting could not keep apart."""
        counts = torch.bincount(self.real_labels, minlength=len(self.class_names)).tolist()
        several, alone = (
            ", ".join(
                self.class_names[label]
                for label in self.card.single_group_classes
                if (counts[label] > 1) == wanted
            )
            for wanted in (True, False)
        )
        notes = []
        if several:
            notes.append(
                f"All training images of {several} show one physical sign, so the gate's "
                "classifiers know it, and the share of real images that they accept is too high "
                "there."
            )
        if alone:
            notes.append(
                f"All of the gate's classifiers train on the only training image of {alone}, so "
                "nothing says what share of real images they accept there."
            )
        return tuple(notes)

    def with_tau(self, tau: float) -> Self:
        """The same classifiers with another threshold, in 0..1."""
        _check_tau(tau)
        return replace(self, card=self.card.model_copy(update={"tau": tau}))

    def save(self, folder: str | Path) -> None:
        """Writes gate.safetensors, then gate.json, which vouches for it by hash."""
        content = save_tensors(_tensors(self.models, self.real_labels, self.real_probabilities))
        write_atomically(Path(folder) / WEIGHTS, content)
        write_atomically(Path(folder) / CARD, self.card.model_dump_json(indent=2).encode())

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> Self:
        """What ``save`` wrote, ready to judge on ``device``.

        Raises SignforgeError where the files are missing or do not fit together; nothing in them
        can run code.
        """
        card_path, weights_path = Path(folder) / CARD, Path(folder) / WEIGHTS
        if not card_path.is_file():
            raise SignforgeError(f"{folder} holds no {CARD}: give the folder of a saved gate.")
        try:
            card = GateCard.model_validate(json.loads(card_path.read_text(encoding="utf-8")))
            content = weights_path.read_bytes()
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
            reason = " ".join(str(error).split())
            raise SignforgeError(f"{card_path} or its weights cannot be read: {reason}") from None
        if sha256(content) != card.weights_sha256:
            raise SignforgeError(
                f"{weights_path} is not the file that {CARD} describes (SHA-256 differs); restore "
                "it, or fit the gate again."
            )
        models = [_build(card, fold, pretrained=False) for fold in range(card.folds)]
        try:
            tensors = load_tensors(content)
            real = _real_images(tensors, len(card.class_names))
            nn.ModuleList(models).load_state_dict(tensors)
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise SignforgeError(f"{weights_path} does not fit {CARD}: {reason}") from None
        frozen = tuple(_frozen(model, resolve_device(device)) for model in models)
        return cls(card, frozen, *real)


def fit_classifier_gate(
    train: LabeledImages,
    *,
    config: ClassifierConfig,
    tau: float = 0.5,
    folds: int = 2,
    seed: int = 0,
    track: Track = no_progress,
) -> ClassifierGate:
    """Trains one classifier a fold, each on all of ``train`` but the groups of its fold.

    Give it the training split alone. ``config`` says which timm model and how long each of the
    classifiers trains; tau is the probability that a sample must reach.

    Raises SignforgeError as ``fit_classifier`` does, and for a single class, where every image
    would pass.
    """
    _check_tau(tau)
    if not 2 <= folds <= MAX_FOLDS:
        raise SignforgeError(f"folds must lie in 2..{MAX_FOLDS}, got {folds}.")
    if train.num_classes < 2:
        raise SignforgeError("A classifier gate needs at least two classes to tell apart.")
    fold_of = group_folds(train, folds, seed=seed)
    card = GateCard(
        classifier=config,
        resolution=train.resolution,
        class_names=train.class_names,
        tau=tau,
        folds=folds,
        seed=seed,
        train_fingerprint=train.fingerprint,
        single_group_classes=single_group_classes(train),
        weights_sha256="",
    )
    models = []
    probabilities = torch.full((len(train),), torch.nan)
    for fold in range(folds):
        model = _build(card, fold, pretrained=config.pretrained)
        known = train.subset((fold_of != fold).nonzero().flatten())
        fit_classifier(
            model,
            known,
            config=config,
            seed=derive_seed(seed, fold),
            loss=balanced_loss(known.class_counts),
            track=track,
        )
        models.append(_frozen(model, resolve_device(config.device)))
        rows = (fold_of == fold).nonzero().flatten()
        if len(rows):
            probabilities[rows] = own_probability(
                model, train.images[rows], train.labels[rows], config.precision
            )
    content = save_tensors(_tensors(models, train.labels, probabilities))
    card = card.model_copy(update={"weights_sha256": sha256(content)})
    return ClassifierGate(card, tuple(models), train.labels, probabilities)


def balanced_loss(class_counts: Tensor) -> Loss:
    """Logit adjustment by int64 (C,) class counts; a class without images counts as one image."""
    return logit_adjusted(class_counts.clamp(min=1).tolist())


def own_probability(model: nn.Module, images: Tensor, labels: Tensor, precision: str) -> Tensor:
    """Softmax of each image's own class: uint8 (N > 0, 3, R, R), int64 (N,) -> float32 (N,)."""
    logits = predict_logits(model, images, precision=precision)
    return logits.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)


def _build(card: GateCard, fold: int, *, pretrained: bool) -> nn.Module:
    return build_classifier(
        card.classifier.name,
        num_classes=len(card.class_names),
        resolution=card.resolution,
        pretrained=pretrained,
        seed=derive_seed(card.seed, fold),
    )


def _frozen(model: nn.Module, device: torch.device) -> nn.Module:
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.eval().requires_grad_(False)


def _tensors(
    models: Sequence[nn.Module], real_labels: Tensor, real_probabilities: Tensor
) -> dict[str, Tensor]:
    """What gate.safetensors holds: ``0.conv1.weight`` and so on, and the real images' verdict."""
    weights = nn.ModuleList(models).state_dict()
    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    return {**tensors, _REAL_LABELS: real_labels, _REAL_PROBABILITIES: real_probabilities}


def _real_images(tensors: dict[str, Tensor], num_classes: int) -> tuple[Tensor, Tensor]:
    """Takes labels and probabilities of the real images out of ``tensors``, checked."""
    labels, probabilities = tensors.pop(_REAL_LABELS), tensors.pop(_REAL_PROBABILITIES)
    if labels.dtype != torch.int64 or probabilities.dtype != torch.float32:
        raise ValueError("labels are not int64 or probabilities not float32")
    if labels.ndim != 1 or labels.shape != probabilities.shape:
        raise ValueError("there is not one label and one probability for each real image")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(f"labels lie outside 0..{num_classes - 1}")
    return labels, probabilities


def _check_tau(tau: float) -> None:
    if not 0 <= tau <= 1:
        raise SignforgeError(f"tau is a probability and must lie in 0..1, got {tau}.")
