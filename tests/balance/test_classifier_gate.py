import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from signforge.balance import classifier_gate
from signforge.balance.classifier_gate import (
    ClassifierGate,
    balanced_loss,
    fit_classifier_gate,
)
from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.balance.folds import group_folds, single_group_classes
from signforge.classify.training import fit_classifier, predict_logits
from signforge.config import ClassifierConfig, DataConfig
from signforge.data.classes import restrict_classes
from signforge.data.images import LabeledImages
from signforge.data.load import load_splits
from signforge.errors import SignforgeError
from signforge.files import sha256
from support.squares import square_images

NAMES = ("a", "b", "c", "d")
CONFIG = ClassifierConfig(
    name="test_resnet", steps=60, batch_size=16, device="cpu", precision="fp32"
)
QUICK = CONFIG.model_copy(update={"steps": 2})


def make_train(counts=(60, 40, 40, 20), group_size=4, seed=0):
    labels = torch.arange(4).repeat_interleave(torch.tensor(counts))
    return LabeledImages(
        images=square_images(labels, seed),
        labels=labels,
        groups=torch.arange(len(labels)) // group_size,
        class_names=NAMES,
        names=tuple(str(i) for i in range(len(labels))),
        source="squares",
    )


@pytest.fixture(scope="module")
def train():
    return make_train()


@pytest.fixture(scope="module")
def gate(train):
    return fit_classifier_gate(train, config=CONFIG, seed=3)


def test_samples_pass_that_look_like_their_class(gate):
    labels = torch.arange(80) % 4
    images = square_images(labels, seed=9)
    assert gate(images, labels).dtype == torch.bool
    assert gate(images, labels).float().mean() > 0.9
    assert gate(images, (labels + 1) % 4).float().mean() < 0.05
    assert gate.real_acceptance.dtype == torch.float64
    assert gate.real_acceptance.min() > 0.8
    assert gate.notes == ()


def test_probability_is_the_mean_of_the_folds_softmax(gate):
    labels = torch.arange(12) % 4
    images = square_images(labels, seed=4)
    expected = sum(F.softmax(predict_logits(m, images, precision="fp32"), 1) for m in gate.models)
    expected = (expected / 2)[torch.arange(12), labels]
    assert torch.allclose(gate.probabilities(images, labels), expected)
    middle = float(expected.sort().values[5:7].mean())
    assert torch.equal(gate.with_tau(middle)(images, labels), expected >= middle)


def test_a_higher_tau_keeps_a_part_of_what_a_lower_keeps(gate):
    labels = torch.arange(40) % 4
    images = square_images(labels, seed=5)
    strict, loose = (gate.with_tau(tau) for tau in (0.99, 0.3))
    assert (strict.tau, gate.tau, loose.tau) == (0.99, 0.5, 0.3)
    assert not (strict(images, labels) & ~loose(images, labels)).any()
    assert (strict.real_acceptance <= loose.real_acceptance).all()
    assert gate.with_tau(0.0)(images, (labels + 1) % 4).all()


def test_no_classifier_judges_a_group_that_it_has_seen(train):
    # other images in the groups of fold 0 must change the classifier of fold 1, and only that
    fold_of = group_folds(train, 2, seed=7)
    changed = train.images.clone()
    changed[fold_of == 0] = 255 - changed[fold_of == 0]
    gates = [
        fit_classifier_gate(replace(train, images=images), config=QUICK, seed=7)
        for images in (train.images, changed)
    ]
    same = [
        all(
            torch.equal(a, b)
            for a, b in zip(m.state_dict().values(), n.state_dict().values(), strict=True)
        )
        for m, n in zip(gates[0].models, gates[1].models, strict=True)
    ]
    assert same == [True, False]


def test_each_classifier_allows_for_how_rare_its_own_images_are(train, monkeypatch):
    offsets = []

    def spy(*args, **options):
        offsets.append(options["loss"].offsets.tolist())
        return fit_classifier(*args, **options)

    monkeypatch.setattr(classifier_gate, "fit_classifier", spy)
    fit_classifier_gate(train, config=QUICK, seed=7)
    fold_of = group_folds(train, 2, seed=7)
    priors = []
    for fold in range(2):
        labels = train.labels[fold_of != fold]
        priors.append([float((labels == c).double().mean().log()) for c in range(4)])
    assert offsets == [pytest.approx(prior, abs=1e-6) for prior in priors]
    assert max(priors[0]) - min(priors[0]) > 0.5


def test_real_acceptance_comes_from_the_classifier_of_the_own_fold(gate, train):
    fold_of = group_folds(train, 2, seed=3)
    kept = torch.zeros(len(train), dtype=torch.bool)
    for fold, model in enumerate(gate.models):
        logits = predict_logits(model, train.images, precision="fp32")
        own = F.softmax(logits, 1)[torch.arange(len(train)), train.labels]
        kept[fold_of == fold] = (own >= 0.5)[fold_of == fold]
    expected = [float(kept[train.labels == c].double().mean()) for c in range(4)]
    assert gate.real_acceptance.tolist() == pytest.approx(expected)


def test_classes_that_cannot_be_cut_by_group_are_named():
    train = make_train((8, 8, 4, 1), group_size=1)
    groups = train.groups.clone()
    groups[train.labels == 2] = 99
    gate = fit_classifier_gate(replace(train, groups=groups), config=QUICK)
    assert gate.card.single_group_classes == (2, 3)
    assert len(gate.notes) == 2
    assert "All training images of c show one physical sign" in gate.notes[0]
    assert "train on the only training image of d, so nothing says" in gate.notes[1]
    for label, note in zip((2, 3), gate.notes, strict=True):
        one = gate.card.model_copy(update={"single_group_classes": (label,)})
        assert replace(gate, card=one).notes == (note,)
    assert gate.real_acceptance.isnan().tolist() == [False, False, False, True]


def test_the_same_seed_gives_the_same_gate_and_leaves_random_numbers_alone(train):
    before = torch.random.get_rng_state()
    hashes = [
        fit_classifier_gate(train, config=QUICK, seed=seed).card.weights_sha256
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert hashes[0] == hashes[1] != hashes[2]


def test_more_folds(train):
    gate = fit_classifier_gate(train, config=QUICK, folds=3, seed=0)
    assert len(gate.models) == gate.card.folds == 3
    assert not gate.real_acceptance.isnan().any()


def test_balanced_loss_is_cross_entropy_of_shifted_logits():
    rng = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(9, 3, generator=rng), torch.arange(9) % 3
    same = balanced_loss(torch.tensor([7, 7, 7]))(logits, labels)
    assert torch.allclose(same, F.cross_entropy(logits, labels))
    counts = torch.tensor([50, 5, 0])
    weights = torch.tensor([50.0, 5.0, 1.0]) * logits.exp()
    by_hand = -(weights / weights.sum(1, keepdim=True))[torch.arange(9), labels].log().mean()
    assert torch.allclose(balanced_loss(counts)(logits, labels), by_hand)


def test_a_saved_gate_judges_the_same(gate, tmp_path):
    gate.with_tau(0.7).save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gate.json", "gate.safetensors"]
    loaded = ClassifierGate.load(tmp_path, "cpu")
    labels = torch.arange(16) % 4
    images = square_images(labels, seed=6)
    assert torch.equal(loaded.probabilities(images, labels), gate.probabilities(images, labels))
    assert torch.equal(loaded.real_acceptance, gate.with_tau(0.7).real_acceptance)
    assert (loaded.tau, loaded.class_names, loaded.card.seed) == (0.7, NAMES, 3)
    again = tmp_path / "again"
    loaded.save(again)
    for name in ("gate.json", "gate.safetensors"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def rewrite(folder, *, drop=(), **tensors):
    """Other weights under a card that vouches for them."""
    kept = {k: v for k, v in load_file(folder / "gate.safetensors").items() if k not in drop}
    save_file({**kept, **tensors}, folder / "gate.safetensors")
    card = json.loads((folder / "gate.json").read_text())
    card["weights_sha256"] = sha256((folder / "gate.safetensors").read_bytes())
    (folder / "gate.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"real_labels": torch.full((160,), 4)}, r"labels lie outside 0\.\.3"),
        ({"real_labels": torch.zeros(159, dtype=torch.int64)}, "one label and one probability"),
        ({"real_probabilities": torch.zeros(160).half()}, "probabilities not float32"),
        ({"drop": ("real_labels",)}, "real_labels"),
        ({"drop": ("0.fc.weight",)}, "Missing key"),
        ({"more": torch.zeros(1)}, "Unexpected key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_files_that_do_not_fit(gate, tmp_path, change, message):
    gate.save(tmp_path)
    rewrite(tmp_path, **change)
    with pytest.raises(SignforgeError, match=rf"does not fit gate\.json: .*{message}"):
        ClassifierGate.load(tmp_path, "cpu")


def test_damaged_files(gate, tmp_path):
    with pytest.raises(SignforgeError, match=r"holds no gate\.json"):
        ClassifierGate.load(tmp_path)
    gate.save(tmp_path)
    card = json.loads((tmp_path / "gate.json").read_text())
    (tmp_path / "gate.json").write_text(json.dumps({**card, "code": "import os"}))
    with pytest.raises(SignforgeError, match=r"cannot be read: .*code"):
        ClassifierGate.load(tmp_path)
    (tmp_path / "gate.json").write_text(json.dumps(card))
    content = bytearray((tmp_path / "gate.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "gate.safetensors").write_bytes(content)
    with pytest.raises(SignforgeError, match="SHA-256 differs"):
        ClassifierGate.load(tmp_path)
    (tmp_path / "gate.safetensors").unlink()
    with pytest.raises(SignforgeError, match="cannot be read"):
        ClassifierGate.load(tmp_path)


def test_images_of_another_size_are_brought_to_the_classifiers(gate):
    labels = torch.arange(16) % 4
    large = square_images(labels, seed=8).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert gate(large, labels).float().mean() > 0.9


def test_no_image_and_labels_outside(gate):
    nothing = torch.zeros((0, 3, 16, 16), dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    assert gate(*nothing).tolist() == []
    for label in (-1, 4):
        with pytest.raises(SignforgeError, match=rf"0\.\.3 for this gate, got {label}"):
            gate(torch.zeros((1, 3, 16, 16), dtype=torch.uint8), torch.tensor([label]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 1.5}, r"tau is a probability and must lie in 0\.\.1, got 1.5"),
        ({"tau": float("nan")}, "got nan"),
        ({"folds": 1}, r"folds must lie in 2\.\.64, got 1"),
        ({"folds": 65}, r"folds must lie in 2\.\.64, got 65"),
    ],
)
def test_bad_options(train, options, message):
    with pytest.raises(SignforgeError, match=message):
        fit_classifier_gate(train, config=QUICK, **options)


def test_one_class_needs_no_gate(train):
    alone = LabeledImages(
        images=train.images,
        labels=torch.zeros_like(train.labels),
        groups=train.groups,
        class_names=("a",),
        names=train.names,
        source="squares",
    )
    with pytest.raises(SignforgeError, match="at least two classes"):
        fit_classifier_gate(alone, config=QUICK)


class SquareSampler:
    """Draws every class well but one, which comes out as another, as a GAN's rare class may."""

    num_classes, resolution, class_names, fingerprint = 4, 16, NAMES, "squares"

    def sample(self, labels, seed):
        return square_images(torch.where(labels == 2, 1, labels), seed)


def test_a_collapsed_class_is_found_and_filled_with_real_images(gate, train):
    with pytest.warns(UserWarning, match=r"less than 10% .* of class 2 \('c'\)") as caught:
        dataset = SyntheticBalancedDataset(train, SquareSampler(), gate=gate)
    assert all("class 1 " not in str(w.message) for w in caught)
    assert dataset.synthetic_counts.tolist() == [0, 20, 20, 40]
    assert dataset.oversampled_counts[2] == 20
    assert dataset.acceptance[2] < 0.1
    assert dataset.acceptance[1] > 0.8
    assert dataset.acceptance[3] > 0.8


@pytest.mark.slow
def test_real_signs(data_root, tmp_path):
    source = DataConfig(source=str(data_root / "gtsrb-native"))
    splits = load_splits(source, cache_dir=tmp_path)
    splits = restrict_classes(splits, ("1", "12", "14", "17", "38"))
    assert single_group_classes(splits.train) == ()
    config = CONFIG.model_copy(update={"batch_size": 32})
    gate = fit_classifier_gate(splits.train, config=config, folds=3)
    # two signs of each class to learn from: little, but enough to tell right from wrong labels
    images, labels = splits.test.images, splits.test.labels
    own, wrong = (gate.probabilities(images, (labels + k) % 5).mean() for k in (0, 1))
    assert own > 2 * wrong
    assert gate.real_acceptance.mean() > 0.3
