import json

import pytest
import torch

from signforge.config import GanConfig
from signforge.data.splits import PreparedSplits
from signforge.errors import SignforgeError
from signforge.evaluate.features import FeatureExtractor
from signforge.evaluate.probe import (
    COLLAPSED_AGREEMENT,
    COLLAPSED_VARIETY,
    bounded_counts,
    build_probe,
    class_variance,
    collapsed_classes,
    images_compared,
    samples_judged,
)

SETTINGS = {"probe_classifier": "test_resnet", "probe_steps": 40, "device": "cpu"}


class Replay:
    """Draws training images of the class; of ``copies`` always the same one, of ``swapped`` (a
    dict) those of another class."""

    def __init__(self, train, copies=(), swapped=None):
        self.train = train
        self.copies = copies
        self.swapped = swapped or {}
        self.num_classes = train.num_classes
        self.resolution = train.resolution
        self.asked = []

    def sample(self, labels, seed):
        self.asked.append((labels.clone(), seed))
        rng = torch.Generator().manual_seed(seed)
        rows = []
        for label in labels.tolist():
            members = (self.train.labels == self.swapped.get(label, label)).nonzero().flatten()
            pick = torch.randint(len(members), (1,), generator=rng)
            rows.append(members[0 if label in self.copies else int(pick)])
        return self.train.images[torch.stack(rows)]


def without_test(train, val) -> PreparedSplits:
    """A run is steered by its probe, which must not have seen a single test image."""
    return PreparedSplits(train=train, val=val, test=None)


@pytest.fixture(scope="module")
def splits(train, reference) -> PreparedSplits:
    return without_test(train, reference)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def probe(splits, run):
    return build_probe(GanConfig(**SETTINGS), splits, run)


def test_real_images_pass(probe, train):
    values = probe(Replay(train), 4.0)
    assert values.label_agreement > 0.9
    assert len(values.per_class_label_agreement) == 4
    worst = min(values.per_class_label_agreement)
    assert values.worst_class_label_agreement == worst
    assert values.per_class_label_agreement[values.worst_class] == worst
    assert values.collapsed_classes == ()
    assert values.fd_ratio == pytest.approx(1.0, abs=0.5)  # as far as other training images are


def test_the_same_samples_every_time(probe, train):
    first, second = Replay(train), Replay(train)
    assert probe(first, 1.0) == probe(second, 400.0)
    (labels, seed), (again, same) = first.asked[0], second.asked[0]
    assert torch.equal(labels, again)
    assert seed == same


def test_enough_samples_of_every_class(splits, train, tmp_path):
    few = splits.val.subset(torch.arange(5))  # two of class 0, one of each other
    sampler = Replay(train)
    small = without_test(train, few)
    build_probe(GanConfig(**SETTINGS), small, tmp_path)(sampler, 1.0)
    drawn = torch.bincount(torch.cat([labels for labels, _ in sampler.asked]))
    assert drawn.tolist() == [32] * 4


def test_a_class_drawn_as_another_has_collapsed(probe, train):
    values = probe(Replay(train, swapped={2: 1}), 4.0)
    assert values.collapsed_classes == (2,)
    assert values.worst_class == 2
    assert values.worst_class_label_agreement < 0.2
    assert values.label_agreement < 0.85
    assert values.fd > probe(Replay(train), 4.0).fd


def test_a_class_drawn_as_one_image_has_collapsed(probe, train):
    values = probe(Replay(train, copies=(3,)), 4.0)
    assert values.per_class_label_agreement[3] == 1.0
    assert values.collapsed_classes == (3,)


def test_the_images_it_looks_at_are_counted_beforehand(splits, tmp_path, train, monkeypatch):
    looked = []
    features_and_logits = FeatureExtractor.features_and_logits

    def counted(self, images, *args):
        looked.append(len(images))
        return features_and_logits(self, images, *args)

    monkeypatch.setattr(FeatureExtractor, "features_and_logits", counted)
    sampler = Replay(train)
    build_probe(GanConfig(**(SETTINGS | {"probe_steps": 2})), splits, tmp_path)(sampler, 1.0)
    drawn = sum(len(labels) for labels, _ in sampler.asked)
    assert samples_judged(splits.val) == drawn
    assert images_compared(splits) == sum(looked) - drawn


def test_nothing_is_written_before_the_first_call(splits, tmp_path, train):
    probe = build_probe(GanConfig(**SETTINGS), splits, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    probe(Replay(train), 1.0)
    kept = {path.name for path in (tmp_path / "run" / "probe").iterdir()}
    assert kept == {"extractor.json", "extractor.safetensors"}


def test_the_classifier_is_kept_for_a_resumed_run(probe, splits, run, train, monkeypatch):
    before = probe(Replay(train), 1.0)

    def never(*_args, **_options):
        raise AssertionError("trained again")

    monkeypatch.setattr("signforge.evaluate.probe.train_extractor", never)
    assert build_probe(GanConfig(**SETTINGS), splits, run)(Replay(train), 1.0) == before


@pytest.mark.parametrize("change", ["steps", "images"])
def test_a_classifier_of_other_things_is_replaced(splits, tmp_path, train, change):
    settings = SETTINGS | {"probe_steps": 2}
    build_probe(GanConfig(**settings), splits, tmp_path)(Replay(train), 1.0)
    if change == "steps":
        settings["probe_steps"] = 3
    else:
        half = train.subset(torch.arange(80))
        splits = without_test(half, splits.val)
    build_probe(GanConfig(**settings), splits, tmp_path)(Replay(train), 1.0)
    card = json.loads((tmp_path / "probe" / "extractor.json").read_text())
    assert card["steps"] == settings["probe_steps"]
    assert card["train_fingerprint"] == splits.train.fingerprint


def test_a_damaged_classifier_is_one_sentence(splits, tmp_path, train):
    settings = GanConfig(**(SETTINGS | {"probe_steps": 2}))
    build_probe(settings, splits, tmp_path)(Replay(train), 1.0)
    weights = tmp_path / "probe" / "extractor.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(SignforgeError, match=r"SHA-256 differs.*delete .*probe to train it again"):
        build_probe(settings, splits, tmp_path)(Replay(train), 1.0)


def test_an_unknown_classifier_is_refused_before_training(splits, tmp_path):
    with pytest.raises(SignforgeError, match="did you mean resnet18"):
        build_probe(GanConfig(probe_classifier="resnet18x"), splits, tmp_path)


def test_one_class_needs_no_probe(splits, tmp_path):
    one = splits.train.subset((splits.train.labels == 0).nonzero().flatten())
    one = type(one)(
        images=one.images,
        labels=one.labels,
        groups=one.groups,
        class_names=("a",),
        names=one.names,
        source=one.source,
    )
    assert build_probe(GanConfig(**SETTINGS), without_test(one, one), tmp_path) is None


def test_class_variance_is_the_trace_of_the_covariance():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(50, 6, generator=rng) * 3 + 100
    labels = torch.arange(50) % 3
    labels[-1] = 4
    found = class_variance(features, labels, 6)
    for label in range(3):
        expected = features[labels == label].double().T.cov().trace()
        assert float(found[label]) == pytest.approx(float(expected))
    assert torch.isnan(found[3:]).all()  # none and one image


def test_what_counts_as_collapsed():
    agreement = (1.0, COLLAPSED_AGREEMENT - 0.01, 1.0, 1.0, COLLAPSED_AGREEMENT)
    variety = torch.tensor([1.0, 1.0, COLLAPSED_VARIETY - 0.01, torch.nan, torch.inf])
    assert collapsed_classes(agreement, variety) == (1, 2)


@pytest.mark.parametrize(
    ("counts", "most", "expected"),
    [([5, 7], 12, [5, 7]), ([300, 100], 100, [75, 25]), ([9000, 1], 100, [99, 1])],
)
def test_counts_keep_their_proportions(counts, most, expected):
    assert bounded_counts(torch.tensor(counts), most).tolist() == expected
