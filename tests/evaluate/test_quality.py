import json

import pytest
import torch
from torch import Tensor

from signforge.data.images import LabeledImages
from signforge.evaluate.coverage import coverage_report
from signforge.evaluate.features import FeatureExtractor
from signforge.evaluate.fidelity import draw_samples, fidelity_report
from signforge.evaluate.memorization import memorization_report, pixels
from signforge.evaluate.quality import NEIGHBOURS, quality_report


class Replay:
    """Training images of the asked class, with some noise; ``stuck`` always draws the same one."""

    fingerprint = "replay"

    def __init__(self, images: LabeledImages, noise: int = 40, *, stuck: int | None = None) -> None:
        self.images, self.noise, self.stuck = images, noise, stuck
        self.num_classes, self.resolution = images.num_classes, images.resolution
        self.class_names = images.class_names

    def sample(self, labels: Tensor, seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        drawn = []
        for label in labels.tolist():
            members = (self.images.labels == label).nonzero().flatten()
            choice = torch.randint(len(members), (1,), generator=rng)
            drawn.append(members[:1] if label == self.stuck else members[choice])
        images = self.images.images[torch.cat(drawn)].int()
        noise = torch.randint(0, self.noise + 1, images.shape, generator=rng, dtype=torch.int32)
        noise[labels == self.stuck] = 0
        return (images + noise).clamp(0, 255).to(torch.uint8)


def test_the_parts_are_what_each_of_them_says(
    extractor: FeatureExtractor, train: LabeledImages, reference: LabeledImages
) -> None:
    sampler = Replay(train)
    report = quality_report(sampler, extractor, reference, train, seed=3)
    assert report.fidelity.fd == pytest.approx(
        fidelity_report(sampler, extractor, reference, train, seed=3).fd, rel=1e-6
    )
    samples = draw_samples(sampler, reference.labels, 3)
    real, fake = extractor.features(reference.images), extractor.features(samples)
    assert report.coverage is not None
    assert report.coverage.samples == coverage_report(real, fake, k=NEIGHBOURS)
    direct = memorization_report(
        pixels(samples),
        reference.labels,
        pixels(train),
        train.labels,
        pixels(reference),
        reference.labels,
    )
    assert report.memorization_pixels.as_dict() == direct.as_dict()
    assert torch.equal(report.memorization_pixels.neighbours.indices, direct.neighbours.indices)
    values = report.as_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["per_class"]["n"] == [25] * 4
    assert all(len(values["per_class"][key]) == 4 for key in values["per_class"])


def test_a_class_that_replays_one_image_stands_out(
    extractor: FeatureExtractor, train: LabeledImages, reference: LabeledImages
) -> None:
    good = quality_report(Replay(train, 0), extractor, reference, train, seed=0)
    stuck = quality_report(Replay(train, 0, stuck=2), extractor, reference, train, seed=0)
    assert stuck.coverage is not None
    assert good.coverage is not None
    assert stuck.coverage.per_class[2] < 0.5 * good.coverage.per_class[2]
    assert stuck.classes.fd[2] > 1.5 * good.classes.fd[2]
    assert stuck.classes.fd_floor == good.classes.fd_floor
    assert stuck.memorization_pixels.per_class_share[2] == 1.0


def test_too_few_groups_leave_coverage_out(
    extractor: FeatureExtractor, train: LabeledImages, reference: LabeledImages
) -> None:
    one_sign = LabeledImages(
        images=reference.images,
        labels=reference.labels,
        groups=torch.zeros_like(reference.labels),
        class_names=reference.class_names,
        names=reference.names,
        source=reference.source,
    )
    report = quality_report(Replay(train), extractor, one_sign, train, seed=0)
    assert report.coverage is None
    assert report.as_dict()["coverage"] is None
    assert report.as_dict()["per_class"]["coverage"] is None
