import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from signforge.data.images import LabeledImages
from signforge.evaluate.class_fidelity import class_frechet_distances, class_kids
from signforge.evaluate.coverage import class_coverage, coverage_report, neighbour_balls
from signforge.evaluate.features import FeatureExtractor
from signforge.evaluate.fidelity import (
    draw_samples,
    fidelity_report,
    judge_images,
    kid,
    label_agreement,
)
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
    by_features = memorization_report(
        fake,
        reference.labels,
        extractor.features(train.images),
        train.labels,
        real,
        reference.labels,
    )
    assert report.memorization.as_dict() == by_features.as_dict()
    assert torch.equal(report.memorization.neighbours.indices, by_features.neighbours.indices)
    assert by_features.as_dict() != direct.as_dict()
    values = report.as_dict()
    assert values["memorization"] == {
        "features": by_features.as_dict(),
        "pixels": direct.as_dict(),
    }
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["per_class"]["n"] == [25] * 4
    assert values["floor_repeats"] == 0
    assert all(len(values["per_class"][key]) == 4 for key in values["per_class"])


def test_every_figure_is_of_the_images_that_its_name_says(
    extractor: FeatureExtractor, train: LabeledImages, reference: LabeledImages
) -> None:
    """With tracks, so that it matters whose neighbours are left out of which balls, and a sampler
    that draws some images of class 1 where class 2 is asked for."""
    tracks = replace(reference, groups=torch.arange(100) // 20 * 4 + reference.labels)
    others = replace(train, groups=1000 + torch.arange(160) // 80 * 4 + train.labels)
    mistaken = train.labels.clone()
    mistaken[1::8] = 2
    sampler = Replay(replace(others, labels=mistaken))
    report = quality_report(sampler, extractor, tracks, others, seed=3)
    judged = judge_images(
        sampler,
        extractor,
        tracks,
        others,
        seed=3,
        train_features=extractor.features(others.images),
    )
    real, fake, floor, labels = judged.real, judged.fake, judged.floor, judged.labels
    floor_labels, floor_groups = others.labels[judged.floor_rows], others.groups[judged.floor_rows]

    assert report.coverage is not None
    assert report.coverage.samples == coverage_report(
        real, fake, k=NEIGHBOURS, real_groups=tracks.groups
    )
    assert report.coverage.floor == coverage_report(
        real, floor, k=NEIGHBOURS, real_groups=tracks.groups, fake_groups=floor_groups
    )
    balls = neighbour_balls(real, k=NEIGHBOURS, groups=tracks.groups)
    coverage = class_coverage(balls, labels, fake, labels, 4)
    coverage_floor = class_coverage(balls, labels, floor, floor_labels, 4)
    assert report.coverage.per_class == coverage
    assert report.coverage.per_class_floor == coverage_floor

    by_class = {
        "fd": class_frechet_distances(real, labels, fake, labels, 4),
        "fd_floor": class_frechet_distances(real, labels, floor, floor_labels, 4),
        "kid": class_kids(real, labels, fake, labels, 4),
        "kid_floor": class_kids(real, labels, floor, floor_labels, 4),
        "label_agreement": label_agreement(judged.fake_logits, labels, 4).per_class,
        "real_label_agreement": label_agreement(judged.real_logits, labels, 4).per_class,
        "coverage": coverage,
        "coverage_floor": coverage_floor,
    }
    for name, beside in zip(list(by_class)[::2], list(by_class)[1::2], strict=True):
        assert by_class[name] != by_class[beside]
    values = report.as_dict()
    assert values["per_class"] == {
        "n": [25] * 4,
        **{name: list(figures) for name, figures in by_class.items()},
    }
    assert values["coverage"]["samples"] == report.coverage.samples.as_dict()
    assert values["coverage"]["floor"] == report.coverage.floor.as_dict()
    whole = fidelity_report(sampler, extractor, tracks, others, seed=3)
    for name in ("fd", "fd_floor", "kid", "kid_floor"):
        assert values[name] == pytest.approx(getattr(whole, name), rel=1e-4)


def test_a_class_with_too_few_training_images_has_floors_without_copies(
    extractor: FeatureExtractor, train: LabeledImages, reference: LabeledImages
) -> None:
    kept = torch.cat(
        [torch.arange(len(train))[train.labels != 2], (train.labels == 2).nonzero()[:6, 0]]
    )
    few = train.subset(kept)
    report = quality_report(Replay(train), extractor, reference, few, seed=3)
    judged = judge_images(Replay(train), extractor, reference, few, seed=3)
    rows = judged.floor_rows
    assert judged.repeated.tolist() == [int(row) in rows[:i].tolist() for i, row in enumerate(rows)]
    assert int(judged.repeated.sum()) == report.as_dict()["floor_repeats"] == 25 - 6
    floor, floor_labels = judged.floor[~judged.repeated], few.labels[rows[~judged.repeated]]
    assert report.fidelity.kid_floor == pytest.approx(kid(judged.real, floor), rel=1e-6)
    kids = class_kids(judged.real, judged.labels, floor, floor_labels, 4)
    assert report.classes.kid_floor == pytest.approx(kids, rel=1e-6)
    assert [fd is None for fd in report.classes.fd_floor] == [False, False, True, False]
    assert report.coverage is not None
    assert report.coverage.floor == coverage_report(judged.real, floor, k=NEIGHBOURS)


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
