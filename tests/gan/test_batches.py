import pytest
import torch

from signforge.data.images import UNKNOWN_GROUP, LabeledImages
from signforge.gan.batches import BatchSource
from signforge.gan.distributed import Share
from signforge.gan.sampler import to_uint8

CPU = torch.device("cpu")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(counts: tuple[int, ...]) -> LabeledImages:
    """Image i is filled with i, in shuffled label order."""
    n = sum(counts)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return LabeledImages(
        images=torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, 8, 8).contiguous(),
        labels=labels[torch.randperm(n, generator=rng(1))],
        groups=torch.full((n,), UNKNOWN_GROUP),
        class_names=tuple(f"class {c}" for c in range(len(counts))),
        names=tuple(str(i) for i in range(n)),
        source="numbered",
    )


COUNTS = (40, 0, 5, 15)


@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        ("uniform", (1 / 3, 0, 1 / 3, 1 / 3)),
        ("empirical", (40 / 60, 0, 5 / 60, 15 / 60)),
        ("tempered", tuple(n**0.5 / sum(m**0.5 for m in COUNTS) for n in COUNTS)),
    ],
)
def test_labels_follow_the_prior_and_empty_classes_are_never_drawn(prior, expected):
    source = BatchSource(numbered(COUNTS), prior, CPU)
    n = 30_000
    for labels in (source.labels(n, rng()), source.batch(n, rng())[1]):
        counts = torch.bincount(labels, minlength=4)
        assert counts[1] == 0
        wanted = torch.tensor(expected) * n
        drawn = wanted > 0
        chi_square = ((counts - wanted)[drawn] ** 2 / wanted[drawn]).sum()
        assert float(chi_square) < 13.8  # 2 degrees of freedom, p = 0.001


def test_every_image_has_its_own_label_and_all_of_a_class_are_drawn_alike():
    train = numbered(COUNTS)
    images, labels = BatchSource(train, "uniform", CPU).batch(30_000, rng(2))
    assert images.dtype == torch.float32
    assert images.shape == (30_000, 3, 8, 8)
    which = to_uint8(images)[:, 0, 0, 0].long()
    assert torch.equal(train.labels[which], labels)
    for label in (0, 2, 3):
        count = COUNTS[label]
        times = torch.bincount(which[labels == label], minlength=60)[train.labels == label].float()
        assert times.min() > 0
        mean = float(times.mean())
        chi_square = float(((times - mean) ** 2 / mean).sum())
        assert abs(chi_square - (count - 1)) < 5 * (2 * (count - 1)) ** 0.5


def test_pixels_lie_between_minus_one_and_one_and_come_back_exactly():
    train = numbered((250, 6))
    images, _ = BatchSource(train, "empirical", CPU).batch(4_000, rng())
    assert images.min() == -1
    assert images.max() == 1
    assert set(to_uint8(images).unique().tolist()) == set(range(256))


def test_the_same_seed_draws_the_same_batch():
    source = BatchSource(numbered(COUNTS), "uniform", CPU)
    one, two, other = (source.batch(16, rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0])


def test_the_shares_of_a_batch_are_the_batch():
    source = BatchSource(numbered(COUNTS), "uniform", CPU)
    whole = source.batch(16, rng(3))
    shares = [source.batch(16, rng(3), Share(rank, 2)) for rank in range(2)]
    for together, wanted in zip(zip(*shares, strict=True), whole, strict=True):
        assert torch.equal(torch.cat(together), wanted)
