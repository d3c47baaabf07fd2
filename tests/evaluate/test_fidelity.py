import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from torch import Tensor
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.evaluate.features import FeatureExtractor
from signforge.evaluate.fidelity import (
    draw_samples,
    feature_statistics,
    fidelity_report,
    frechet_distance,
    kid,
    label_agreement,
    proportional_counts,
    repeats,
    same_labels,
)
from signforge.gan.sampler import ClassConditionalSampler


def cloud(n: int, d: int, seed: int = 0, shift: float = 0.0, spread: float = 1.0) -> Tensor:
    """Correlated features, not centred."""
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=rng) / d**0.5
    return torch.randn(n, d, generator=rng) @ mixing * spread + 0.5 + shift


def covariance(features: Tensor) -> Tensor:
    return features.double().T.cov()


def scipy_frechet(real: Tensor, fake: Tensor) -> float:
    """The formula as Heusel et al. wrote it."""
    first, second = covariance(real).numpy(), covariance(fake).numpy()
    shift = (real.double().mean(0) - fake.double().mean(0)).square().sum()
    root = linalg.sqrtm(first @ second)
    return float(shift) + float(np.trace(first + second - 2 * np.real(root)))


def test_statistics_are_mean_and_covariance() -> None:
    for n in (5, 40):
        features = cloud(n, 12)
        statistics = feature_statistics(features)
        assert statistics.factor.shape == (min(n, 12), 12)
        torch.testing.assert_close(statistics.mean, features.double().mean(0))
        torch.testing.assert_close(statistics.factor.T @ statistics.factor, covariance(features))


@pytest.mark.parametrize(("n", "m"), [(200, 150), (64, 300), (17, 16)])
def test_frechet_agrees_with_scipy_and_torchmetrics(n: int, m: int) -> None:
    real, fake = cloud(n, 16), cloud(m, 16, seed=1, shift=0.1)
    ours = frechet_distance(real, fake)
    assert ours == pytest.approx(scipy_frechet(real, fake), rel=1e-6)
    theirs = _compute_fid(
        real.double().mean(0), covariance(real), fake.double().mean(0), covariance(fake)
    )
    assert ours == pytest.approx(float(theirs), rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(10, 14), (10, 100), (100, 10)])
def test_frechet_with_fewer_images_than_dimensions(n: int, m: int) -> None:
    """Against eigenvalues of S1^(1/2) S2 S1^(1/2), which exist for singular covariances too."""
    real, fake = cloud(n, 40), cloud(m, 40, seed=1)
    values, vectors = torch.linalg.eigh(covariance(real))
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ covariance(fake) @ root).clamp(min=0).sqrt().sum()
    expected = (real.double().mean(0) - fake.double().mean(0)).square().sum()
    expected += covariance(real).trace() + covariance(fake).trace() - 2 * overlap
    assert frechet_distance(real, fake) == pytest.approx(float(expected), rel=1e-6)


def test_frechet_of_known_gaussians() -> None:
    """Two lines of points: only one mean and one deviation differ."""
    line = torch.linspace(-1, 1, 101, dtype=torch.float64)
    real = torch.stack((line, torch.zeros_like(line)), dim=1)
    fake = torch.stack((3 * line + 2, torch.zeros_like(line)), dim=1)
    deviation = float(line.std())
    assert frechet_distance(real, fake) == pytest.approx(4 + (2 * deviation) ** 2, rel=1e-9)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(2, 40),
    m=st.integers(2, 40),
    d=st.integers(1, 24),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_frechet_properties(n: int, m: int, d: int, seed: int, scale: float) -> None:
    real, fake = cloud(n, d, seed) * scale, cloud(m, d, seed + 1) * scale
    distance = frechet_distance(real, fake)
    assert distance >= 0
    assert frechet_distance(fake, real) == pytest.approx(distance, rel=1e-6, abs=1e-9 * scale**2)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9 * scale**2 * d)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert frechet_distance(real[order], fake) == pytest.approx(
        distance, rel=1e-6, abs=1e-9 * scale**2
    )


@pytest.mark.parametrize(
    "features", [torch.zeros(1, 4), torch.full((5, 4), math.nan), torch.zeros(4)]
)
def test_frechet_needs_two_finite_rows(features: Tensor) -> None:
    with pytest.raises(SignforgeError, match="finite features of at least 2"):
        frechet_distance(cloud(5, 4), features)


def direct_kid(x: Tensor, y: Tensor) -> float:
    """Equation 4 of Binkowski et al., pair by pair."""

    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    def within(z: Tensor) -> float:
        n = len(z)
        pairs = [kernel(z[i], z[j]) for i in range(n) for j in range(n) if i != j]
        return sum(pairs) / (n * (n - 1))

    between = sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
    return within(x) + within(y) - 2 * between


def test_kid_agrees_with_the_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = cloud(23, 6), cloud(17, 6, seed=1, shift=0.2)
    expected = direct_kid(real.double(), fake.double())
    assert kid(real, fake) == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr("signforge.evaluate.fidelity.KERNEL_ROWS", 5)
    assert kid(real, fake) == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr("signforge.evaluate.fidelity.KERNEL_VALUES", 1)
    assert kid(real, fake) == pytest.approx(expected, rel=1e-9)


def test_kid_agrees_with_torchmetrics() -> None:
    real, fake = cloud(300, 8).double(), cloud(300, 8, seed=1).double()
    theirs = poly_mmd(real, fake, degree=3, gamma=1 / 8, coef=1.0)
    assert kid(real, fake) == pytest.approx(float(theirs), rel=1e-6)


def test_kid_of_one_distribution_is_unbiased() -> None:
    everything = cloud(4000, 6)
    values = [kid(part[:100], part[100:]) for part in everything.split(200)]
    assert abs(np.mean(values)) < 3 * np.std(values, ddof=1) / len(values) ** 0.5
    assert min(values) < 0


def test_kid_needs_two_rows() -> None:
    with pytest.raises(SignforgeError, match="at least 2"):
        kid(cloud(5, 4), cloud(1, 4))


@pytest.mark.parametrize("distance", [frechet_distance, kid])
def test_lopsided_fakes_are_worse(distance: object) -> None:
    """Shifted, collapsed and mode-dropped fakes are all further off than fresh real ones."""
    assert callable(distance)
    everything = cloud(600, 8)
    real, fresh, rest = everything[:200], everything[200:400], everything[400:]
    floor = distance(real, fresh)
    collapsed = rest.mean(0) + (rest - rest.mean(0)) * 0.1
    one_sided = rest[rest[:, 0] > rest[:, 0].median()].repeat(2, 1)
    one_point = rest[:1].repeat(200, 1)
    for fakes in (rest + 1.0, collapsed, one_sided, one_point):
        assert distance(real, fakes) > 2 * floor


def test_label_agreement_is_recall_of_the_classifier() -> None:
    labels = torch.tensor([0, 0, 1, 1, 1, 1, 2])
    logits = torch.eye(3)[torch.tensor([0, 2, 1, 1, 1, 0, 2])]
    agreement = label_agreement(logits, labels, 3)
    assert agreement.per_class == (0.5, 0.75, 1.0)
    assert agreement.macro == pytest.approx(0.75)
    assert (agreement.worst_class, agreement.worst_class_agreement) == (0, 0.5)


def test_label_agreement_needs_every_class() -> None:
    with pytest.raises(SignforgeError, match="No image of class 1 "):
        label_agreement(torch.eye(3), torch.tensor([0, 0, 2]), 3)


def test_same_labels_takes_each_image_once_while_it_can(train: LabeledImages) -> None:
    counts = torch.tensor([0, 10, 40, 90])
    rows = same_labels(train, counts, torch.Generator().manual_seed(0))
    assert torch.equal(torch.bincount(train.labels[rows], minlength=4), counts)
    uses = torch.bincount(rows, minlength=len(train))
    assert int(uses[train.labels == 1].max()) == 1
    assert torch.equal(uses[train.labels == 2], torch.ones(40, dtype=torch.int64))
    assert int(uses[train.labels == 3].min()) == 2
    assert int(uses[train.labels == 3].max()) == 3


@settings(deadline=None, max_examples=50)
@given(rows=st.lists(st.integers(0, 9), max_size=30))
def test_repeats_are_what_came_before(rows: list[int]) -> None:
    found = repeats(torch.tensor(rows, dtype=torch.int64)).tolist()
    assert found == [row in rows[:place] for place, row in enumerate(rows)]


class Replay:
    """Draws real images of the asked class; ``confused`` puts another class in its place."""

    def __init__(self, images: LabeledImages, confused: tuple[int, int] | None = None) -> None:
        self.images, self.confused = images, confused
        self.num_classes, self.resolution = images.num_classes, images.resolution
        self.class_names, self.fingerprint = images.class_names, "replay"

    def sample(self, labels: Tensor, seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        drawn = []
        for label in labels.tolist():
            wanted = self.confused[1] if self.confused and label == self.confused[0] else label
            members = (self.images.labels == wanted).nonzero().flatten()
            drawn.append(members[torch.randint(len(members), (1,), generator=rng)])
        return self.images.images[torch.cat(drawn)]


class Collapsed(Replay):
    """One image a class, over and over."""

    def sample(self, labels: Tensor, seed: int) -> Tensor:  # noqa: ARG002
        first = [int((self.images.labels == label).nonzero()[0]) for label in labels.tolist()]
        return self.images.images[first]


def test_report_of_good_confused_and_collapsed_samplers(
    extractor: FeatureExtractor, train: LabeledImages, reference: LabeledImages
) -> None:
    def report(sampler: ClassConditionalSampler) -> object:
        return fidelity_report(sampler, extractor, reference, train, seed=0)

    good, again = report(Replay(train)), report(Replay(train))
    assert good == again
    assert good.n == 100
    assert good.metric_name == "fd_test_resnet_indomain_100"
    assert good.extractor_sha256 == extractor.weights_sha256
    assert good.fd_ratio == pytest.approx(good.fd / good.fd_floor)
    assert 0.3 < good.fd_ratio < 3
    assert good.macro_label_agreement > 0.9
    assert good.real_label_agreement > 0.9

    confused = report(Replay(train, confused=(2, 1)))
    assert confused.fd_floor == good.fd_floor
    assert confused.kid_floor == good.kid_floor != good.kid
    assert confused.real_label_agreement == good.real_label_agreement
    assert confused.worst_class == 2
    assert confused.worst_class_label_agreement < 0.2
    assert confused.macro_label_agreement == pytest.approx(
        sum(confused.per_class_label_agreement) / 4
    )
    collapsed = report(Collapsed(train))
    for bad in (confused, collapsed):
        assert bad.fd > 2 * good.fd
        assert bad.kid > good.kid
    read = json.loads(json.dumps(good.as_dict(), allow_nan=False))
    assert read == good.as_dict()


def test_samples_that_are_the_reference_are_at_zero(
    extractor: FeatureExtractor, train: LabeledImages, reference: LabeledImages
) -> None:
    class Oracle(Replay):
        def sample(self, labels: Tensor, seed: int) -> Tensor:  # noqa: ARG002
            assert torch.equal(labels, reference.labels)
            return reference.images

    report = fidelity_report(Oracle(train), extractor, reference, train, seed=0)
    assert report.fd == pytest.approx(0, abs=1e-9)
    assert report.fd_floor > 1e-6
    assert report.macro_label_agreement == report.real_label_agreement


def test_other_seed_draws_other_samples(
    extractor: FeatureExtractor, train: LabeledImages, reference: LabeledImages
) -> None:
    first, second = (
        fidelity_report(Replay(train), extractor, reference, train, seed=seed) for seed in (0, 1)
    )
    assert first.fd != second.fd
    assert first.fd_floor != second.fd_floor


def test_classes_and_sizes_must_match(
    extractor: FeatureExtractor, train: LabeledImages, reference: LabeledImages
) -> None:
    sampler = Replay(train)
    sampler.num_classes = 5
    with pytest.raises(SignforgeError, match="sampler 5, extractor 4"):
        fidelity_report(sampler, extractor, reference, train, seed=0)
    sampler = Replay(train)
    sampler.resolution = 32
    with pytest.raises(SignforgeError, match="draws 32 pixels"):
        fidelity_report(sampler, extractor, reference, train, seed=0)
    few = train.subset((train.labels != 1).nonzero().flatten())
    with pytest.raises(SignforgeError, match="no image of class b"):
        fidelity_report(Replay(train), extractor, reference, few, seed=0)


@settings(deadline=None, max_examples=100)
@given(counts=st.lists(st.integers(1, 500), min_size=1, max_size=20), share=st.floats(0.1, 3.0))
def test_proportional_counts(counts: list[int], share: float) -> None:
    class_counts = torch.tensor(counts)
    total = max(round(share * sum(counts)), 1)
    exact = class_counts.double() * total / sum(counts)
    some = proportional_counts(class_counts, total, at_least_one=True)
    assert int(some.min()) >= 1
    try:
        found = proportional_counts(class_counts, total)
    except SignforgeError:
        assert float(exact.min()) < 1
        return
    assert int(found.sum()) == total
    assert float((found - exact).abs().max()) < 1
    assert int(found.min()) >= 1
    assert torch.equal(found, some)
    assert torch.equal(proportional_counts(class_counts, sum(counts)), class_counts)


def test_samples_do_not_depend_on_later_labels(train: LabeledImages) -> None:
    labels = torch.arange(1100) % 4
    drawn = draw_samples(Replay(train), labels, seed=3)
    assert torch.equal(draw_samples(Replay(train), labels[:512], seed=3), drawn[:512])
    assert not torch.equal(drawn[:512], drawn[512:1024])
