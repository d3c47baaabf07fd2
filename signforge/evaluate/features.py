"""Frozen feature extractors with an honest name and a hash of their weights.

Inception-v3 was never trained on small signs; an in-domain classifier's penultimate layer sees
what matters there (the reasoning of Kynkäänniemi et al. 2022, 2203.06026).
"""

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from signforge.classify.augment import normalise
from signforge.classify.model import build_classifier
from signforge.classify.training import fit_classifier
from signforge.config import ClassifierConfig, Section
from signforge.data.images import LabeledImages
from signforge.device import resolve_device
from signforge.errors import SignforgeError
from signforge.files import write_atomically
from signforge.progress import Track, no_progress

BATCH_SIZE = 256


class ExtractorCard(Section):
    """extractor.json: what the extractor is, and what it was made from."""

    format_version: int = 1
    name: str
    """Part of every metric's name, such as ``resnet18_indomain``."""
    classifier: str
    """timm's name of the model."""
    resolution: int
    num_classes: int
    steps: int
    seed: int
    train_fingerprint: str
    """Fingerprint of the training images."""
    weights_sha256: str


class FeatureExtractor:
    """A trained classifier, frozen: images to pooled features and logits, in fp32.

    On an NVIDIA GPU torch multiplies fp32 in TF32 where its settings allow it.
    """

    def __init__(self, model: nn.Module, card: ExtractorCard, device: torch.device) -> None:
        model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model.eval().requires_grad_(False)
        self.card = card
        self.device = device

    @property
    def name(self) -> str:
        return self.card.name

    @property
    def weights_sha256(self) -> str:
        return self.card.weights_sha256

    @property
    def num_classes(self) -> int:
        return self.card.num_classes

    def features(self, images: Tensor, track: Track = no_progress) -> Tensor:
        """float32 (N, D) on the CPU for uint8 (N, 3, R, R): what the last layer sees."""
        return self.features_and_logits(images, track)[0]

    def features_and_logits(
        self, images: Tensor, track: Track = no_progress
    ) -> tuple[Tensor, Tensor]:
        """Features float32 (N, D) and logits float32 (N, C), both on the CPU.

        Raises SignforgeError for images that are not uint8 (N, 3, R, R) with N > 0.
        """
        shape = (3, self.card.resolution, self.card.resolution)
        if images.dtype != torch.uint8 or images.shape[1:] != shape or len(images) == 0:
            raise SignforgeError(
                f"{self.name} takes uint8 images (N, {', '.join(map(str, shape))}), got "
                f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}."
            )
        # timm's interface, which nn.Module knows nothing of.
        model = cast(Any, self.model)
        features, logits = [], []
        starts = range(0, len(images), BATCH_SIZE)
        with torch.no_grad():
            for start in track(starts, "features", len(starts)):
                batch = normalise(images[start : start + BATCH_SIZE].to(self.device))
                maps = model.forward_features(batch.contiguous(memory_format=torch.channels_last))
                features.append(model.forward_head(maps, pre_logits=True).float().cpu())
                logits.append(model.forward_head(maps).float().cpu())
        return torch.cat(features), torch.cat(logits)

    def save(self, folder: Path) -> None:
        """Writes extractor.safetensors, then extractor.json, which vouches for it by hash."""
        tensors = {k: v.detach().cpu().contiguous() for k, v in self.model.state_dict().items()}
        write_atomically(folder / "extractor.safetensors", save_tensors(tensors))
        card = self.card.model_dump_json(indent=2)
        write_atomically(folder / "extractor.json", card.encode())


def train_extractor(
    train: LabeledImages,
    *,
    config: ClassifierConfig,
    steps: int,
    seed: int,
    track: Track = no_progress,
) -> FeatureExtractor:
    """A classifier trained on the real training split for ``steps`` steps, then frozen.

    It must never see what it is to judge: give it the training split alone. ``config`` says which
    timm model and how it trains; its own ``steps`` are not used.
    """
    model = build_classifier(
        config.name,
        num_classes=train.num_classes,
        resolution=train.resolution,
        pretrained=config.pretrained,
        seed=seed,
    )
    settings = config.model_copy(update={"steps": steps})
    fit_classifier(model, train, config=settings, seed=seed, track=track)
    card = ExtractorCard(
        name=f"{config.name.replace('.', '_')}_indomain",
        classifier=config.name,
        resolution=train.resolution,
        num_classes=train.num_classes,
        steps=steps,
        seed=seed,
        train_fingerprint=train.fingerprint,
        weights_sha256=weights_sha256(model),
    )
    return FeatureExtractor(model, card, resolve_device(config.device))


def load_extractor(folder: Path, device: str = "auto") -> FeatureExtractor:
    """What ``FeatureExtractor.save`` wrote.

    Raises SignforgeError where the files are missing or do not fit together; nothing in them can
    run code.
    """
    card_path, weights_path = folder / "extractor.json", folder / "extractor.safetensors"
    try:
        card = ExtractorCard.model_validate(json.loads(card_path.read_text(encoding="utf-8")))
        tensors = load_tensors(weights_path.read_bytes())
    except OSError as error:
        raise SignforgeError(
            f"Cannot read the feature extractor in {folder}: {error.strerror}; train it again."
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError, ValidationError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise SignforgeError(f"The feature extractor in {folder} is damaged: {reason}") from None
    model = build_classifier(
        card.classifier,
        num_classes=card.num_classes,
        resolution=card.resolution,
        pretrained=False,
        seed=0,
    )
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise SignforgeError(
            f"{weights_path} does not fit {card_path.name}: {' '.join(str(error).split())}"
        ) from None
    if weights_sha256(model) != card.weights_sha256:
        raise SignforgeError(
            f"{weights_path} holds other weights than {card_path.name} says (SHA-256 differs); "
            "restore it, or train the extractor again."
        )
    return FeatureExtractor(model, card, resolve_device(device))


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 (hex) over the state dict in key order: name, dtype, shape and bytes of each."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(repr((name, dtype, tuple(tensor.shape))).encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
