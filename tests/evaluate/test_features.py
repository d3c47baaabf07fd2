import json
from pathlib import Path

import pytest
import torch
from torch import nn

from signforge.classify.augment import normalise
from signforge.classify.model import build_classifier
from signforge.classify.training import predict_logits
from signforge.config import ClassifierConfig
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.evaluate.features import (
    ExtractorCard,
    FeatureExtractor,
    load_extractor,
    train_extractor,
    weights_sha256,
)


def wrap(name: str, resolution: int = 32) -> FeatureExtractor:
    """An untrained extractor."""
    model = build_classifier(name, num_classes=4, resolution=resolution, pretrained=False, seed=0)
    card = ExtractorCard(
        name=name,
        classifier=name,
        resolution=resolution,
        num_classes=4,
        steps=0,
        seed=0,
        train_fingerprint="",
        weights_sha256=weights_sha256(model),
    )
    return FeatureExtractor(model, card, torch.device("cpu"))


def noise(n: int, size: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), generator=rng, dtype=torch.uint8)


def test_width_is_what_comes_out_not_what_timm_says() -> None:
    extractor = wrap("mobilenetv3_small_100")
    features = extractor.features(noise(3, 32))
    assert features.shape == (3, 1024)
    assert extractor.model.num_features == 576


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_100"])
def test_features_are_what_the_last_layer_sees(name: str) -> None:
    extractor = wrap(name)
    features, logits = extractor.features_and_logits(noise(5, 32))
    with torch.no_grad():
        torch.testing.assert_close(extractor.model.get_classifier()(features), logits)
        torch.testing.assert_close(extractor.model(normalise(noise(5, 32))), logits)
    assert features.dtype == logits.dtype == torch.float32


def test_is_frozen(extractor: FeatureExtractor, reference: LabeledImages) -> None:
    before = weights_sha256(extractor.model)
    features = extractor.features(reference.images)
    assert not features.requires_grad
    assert not any(module.training for module in extractor.model.modules())
    assert not any(parameter.requires_grad for parameter in extractor.model.parameters())
    assert weights_sha256(extractor.model) == before == extractor.weights_sha256


def test_features_do_not_depend_on_the_batch(
    extractor: FeatureExtractor, reference: LabeledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = extractor.features(reference.images)
    monkeypatch.setattr("signforge.evaluate.features.BATCH_SIZE", 7)
    torch.testing.assert_close(extractor.features(reference.images), whole)


def test_trained_extractor_knows_the_classes_and_its_origin(
    extractor: FeatureExtractor, train: LabeledImages, reference: LabeledImages
) -> None:
    _, logits = extractor.features_and_logits(reference.images)
    assert float((logits.argmax(dim=1) == reference.labels).float().mean()) > 0.9
    torch.testing.assert_close(
        predict_logits(extractor.model, reference.images, precision="fp32"), logits
    )
    assert extractor.name == "test_resnet_indomain"
    assert extractor.card.train_fingerprint == train.fingerprint
    assert extractor.card.steps == 60


def test_seed_decides_the_extractor(train: LabeledImages) -> None:
    config = ClassifierConfig(name="test_resnet", batch_size=16, device="cpu")
    hashes = [
        train_extractor(train, config=config, steps=2, seed=seed).weights_sha256
        for seed in (0, 0, 1)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 16, 16),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(0, 3, 16, 16, dtype=torch.uint8),
    ],
)
def test_unfit_images_are_one_sentence(images: torch.Tensor, extractor: FeatureExtractor) -> None:
    with pytest.raises(SignforgeError, match=r"takes uint8 images \(N, 3, 16, 16\)"):
        extractor.features(images)


def test_saved_and_loaded_gives_the_same_bits(
    extractor: FeatureExtractor, reference: LabeledImages, tmp_path: Path
) -> None:
    extractor.save(tmp_path)
    loaded = load_extractor(tmp_path, "cpu")
    assert loaded.card == extractor.card
    assert torch.equal(loaded.features(reference.images), extractor.features(reference.images))


def test_missing_files_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(SignforgeError, match="Cannot read the feature extractor"):
        load_extractor(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_sha256": "0"}, "SHA-256 differs"),
        ({"num_classes": 5}, "does not fit extractor.json"),
        ({"classifier": "test_resnett"}, "did you mean test_resnet"),
        ({"surprise": 1}, "is damaged"),
    ],
)
def test_files_that_do_not_fit_together_are_an_error(
    changes: dict[str, object], message: str, extractor: FeatureExtractor, tmp_path: Path
) -> None:
    extractor.save(tmp_path)
    path = tmp_path / "extractor.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(SignforgeError, match=message) as caught:
        load_extractor(tmp_path)
    assert "\n" not in str(caught.value)


def test_truncated_weights_are_an_error(extractor: FeatureExtractor, tmp_path: Path) -> None:
    extractor.save(tmp_path)
    path = tmp_path / "extractor.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SignforgeError, match="is damaged"):
        load_extractor(tmp_path)


def test_hash_sees_names_shapes_and_values() -> None:
    first = nn.Linear(2, 3)
    same, other_value, other_name = nn.Linear(2, 3), nn.Linear(2, 3), nn.Sequential(first)
    same.load_state_dict(first.state_dict())
    with torch.no_grad():
        other_value.weight.copy_(first.weight)
        other_value.bias.copy_(first.bias).view(-1)[0] += 1e-6
    other_shape = nn.Linear(3, 2)
    with torch.no_grad():
        other_shape.weight.copy_(first.weight.view(2, 3))
    hashes = [weights_sha256(m) for m in (first, same, other_value, other_name, other_shape)]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4
