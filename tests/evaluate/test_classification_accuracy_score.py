import json
import pickle

import pytest
import torch
from torch import Tensor

from signforge.config import ClassifierConfig
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.evaluate.accuracy import AccuracyReport
from signforge.evaluate.classification_accuracy_score import (
    ClassPrior,
    SampledImages,
    classification_accuracy_score,
    real_accuracy,
    sampling_labels,
)

CONFIG = ClassifierConfig(name="test_resnet", batch_size=16, steps=40, device="cpu")


class Replay:
    """Draws real images of the asked class, for class ``lost`` those of class 0."""

    def __init__(self, images: LabeledImages, lost: int | None = None) -> None:
        self.images, self.lost, self.calls = images, lost, 0
        self.num_classes, self.resolution = images.num_classes, images.resolution
        self.class_names, self.fingerprint = images.class_names, "replay"

    def sample(self, labels: Tensor, seed: int) -> Tensor:
        self.calls += 1
        rng = torch.Generator().manual_seed(seed)
        rows = []
        for label in labels.tolist():
            members = (self.images.labels == (0 if label == self.lost else label)).nonzero()
            rows.append(members[torch.randint(len(members), (1,), generator=rng)].flatten())
        return self.images.images[torch.cat(rows)]


@pytest.fixture(scope="module")
def real(train: LabeledImages, reference: LabeledImages) -> AccuracyReport:
    return real_accuracy(train, reference, config=CONFIG, seed=0)


def test_a_good_sampler_trains_as_well_as_real_images(
    train: LabeledImages, reference: LabeledImages, real: AccuracyReport
) -> None:
    score = classification_accuracy_score(Replay(train), train, reference, config=CONFIG, seed=0)
    assert score.real == real
    assert real.top1 > 0.9
    assert abs(score.gap) < 0.1
    assert score.gap == score.real.top1 - score.synthetic.top1
    assert score.macro_gap == score.real.macro_accuracy - score.synthetic.macro_accuracy
    read = json.loads(json.dumps(score.as_dict(), allow_nan=False))
    assert read == score.as_dict()
    assert (read["steps"], read["seed"], read["class_prior"]) == (40, 0, "empirical")


def test_a_class_that_is_never_drawn_is_not_recognised(
    train: LabeledImages, reference: LabeledImages, real: AccuracyReport
) -> None:
    score = classification_accuracy_score(
        Replay(train, lost=2), train, reference, config=CONFIG, seed=0, real=real
    )
    assert score.real is real
    assert score.synthetic.per_class_recall[2] < 0.5
    assert score.synthetic.worst_class == 2
    assert score.gap > 0.1


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(
    ("class_prior", "counts"), [("empirical", [24, 16, 16, 8]), ("uniform", [16, 16, 16, 16])]
)
def test_a_score_draws_what_it_was_asked_for(
    train: LabeledImages,
    reference: LabeledImages,
    real: AccuracyReport,
    class_prior: ClassPrior,
    counts: list[int],
    fresh: bool,
) -> None:
    """Two epochs of 64 samples, the second of them cut short."""
    asked: list[Tensor] = []

    class Recording(Replay):
        def sample(self, labels: Tensor, seed: int) -> Tensor:
            asked.append(labels)
            return super().sample(labels, seed)

    of_each = [(train.labels == c).nonzero().flatten()[:n] for c, n in enumerate((24, 16, 16, 8))]
    uneven = train.subset(torch.cat(of_each))
    score = classification_accuracy_score(
        Recording(train),
        uneven,
        reference,
        config=CONFIG.model_copy(update={"steps": 6}),
        seed=0,
        class_prior=class_prior,
        fresh=fresh,
        real=real,
    )
    assert [torch.bincount(labels).tolist() for labels in asked] == [counts] * (1 + fresh)
    assert (score.class_prior, score.fresh) == (class_prior, fresh)


@pytest.mark.parametrize(("fresh", "draws"), [(True, 3), (False, 1)])
def test_epochs_are_drawn_anew_or_once(train: LabeledImages, fresh: bool, draws: int) -> None:
    sampler = Replay(train)
    labels = sampling_labels(train.class_counts, "empirical")
    samples = SampledImages(sampler, labels, seed=4, fresh=fresh)
    assert (len(samples), sampler.calls) == (len(train), 0)
    epochs = []
    for epoch in (0, 1, 2, 2):
        samples.set_epoch(epoch)
        epochs.append(samples.images)
    assert sampler.calls == draws
    assert torch.equal(epochs[0], epochs[1]) != fresh
    assert torch.equal(epochs[2], epochs[3])
    image, label = samples[150]
    assert torch.equal(image, samples.images[150])
    assert label == 3


def test_loader_workers_get_the_images_but_not_what_drew_them(train: LabeledImages) -> None:
    samples = SampledImages(Replay(train), torch.tensor([1, 2]), seed=4, fresh=True)
    samples.set_epoch(3)
    sent = pickle.loads(pickle.dumps(samples))
    assert sent.sampler is None
    assert torch.equal(sent[1][0], samples[1][0])
    assert sent[1][1] == 2


def test_labels_follow_the_training_set_or_are_uniform() -> None:
    counts = torch.tensor([7, 1, 4])
    assert torch.bincount(sampling_labels(counts, "empirical")).tolist() == [7, 1, 4]
    assert torch.bincount(sampling_labels(counts, "uniform")).tolist() == [4, 4, 4]


def test_a_sampler_of_other_images_is_refused(
    train: LabeledImages, reference: LabeledImages
) -> None:
    sampler = Replay(train)
    sampler.resolution = 32
    with pytest.raises(SignforgeError, match=r"4 classes at 32 pixels, .* have 4 at 16"):
        classification_accuracy_score(sampler, train, reference, config=CONFIG, seed=0)
