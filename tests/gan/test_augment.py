import itertools

import pytest
import torch
from torch.nn import functional as F

from signforge.gan.augment import diff_augment
from signforge.gan.distributed import Share

POLICIES = [
    policy
    for size in range(5)
    for policy in itertools.combinations(("color", "translation", "geometric", "cutout"), size)
]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int, size: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, size, size, generator=rng(9)) * 1.6 - 0.8


@pytest.mark.parametrize("policy", POLICIES, ids="+".join)
def test_every_policy_keeps_the_shape_and_repeats_with_its_seed(policy):
    images = noise(6)
    once = diff_augment(images, policy, rng(1))
    assert once.shape == images.shape
    assert once.dtype == images.dtype
    assert torch.equal(once, diff_augment(images, policy, rng(1)))
    assert torch.equal(once, diff_augment(images, policy, rng(2))) == (policy == ())


@pytest.mark.parametrize("policy", POLICIES, ids="+".join)
def test_every_policy_has_the_gradient_of_finite_differences(policy):
    images = noise(2, size=8).double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: diff_augment(x, policy, rng(4)), (images,))


def test_translation_is_a_shift_by_whole_pixels_of_at_most_an_eighth():
    images = noise(300)
    moved = diff_augment(images, ["translation"], rng())
    padded = F.pad(images, (2, 2, 2, 2))
    shifts = [
        (dy, dx)
        for dy, dx in itertools.product(range(5), repeat=2)
        for same in (moved == padded[:, :, dy : dy + 16, dx : dx + 16]).flatten(1).all(dim=1)
        if same
    ]
    assert len(shifts) == 300
    assert len(set(shifts)) == 25


@pytest.mark.parametrize(
    ("policy", "columns"),
    [
        (("color",), {3, 4}),
        (("cutout",), {3, 4}),
        (("translation",), set(range(1, 7))),
        (("translation", "cutout"), set(range(1, 7))),
    ],
)
def test_a_mark_on_the_left_stays_on_the_left(policy, columns):
    images = torch.full((500, 3, 16, 16), -0.5)
    images[..., 3:5] = 0.5
    # The brightest pixel of a column: cutout hides half of the rows at most.
    profile = diff_augment(images, policy, rng(5)).mean(dim=1).amax(dim=1)
    assert set(profile.argmax(dim=1).tolist()) <= columns


def test_color_changes_light_but_never_where_things_are():
    images = noise(200)
    changed = diff_augment(images, ["color"], rng(3))
    shift = (changed.mean(dim=(1, 2, 3)) - images.mean(dim=(1, 2, 3))).abs()
    assert shift.max() <= 0.5 + 1e-5
    assert shift.max() > 0.4
    before, after = images.mean(dim=1).flatten(1), changed.mean(dim=1).flatten(1)
    for pair in torch.stack([before, after], dim=1):
        assert float(torch.corrcoef(pair)[0, 1]) == pytest.approx(1, abs=1e-4)
    contrast = after.std(dim=1) / before.std(dim=1)
    assert contrast.min() >= 0.5 - 1e-4
    assert contrast.max() <= 1.5 + 1e-4


def test_cutout_is_one_rectangle_of_half_the_size_cut_by_the_border():
    images = torch.ones(2000, 3, 16, 16)
    cut = diff_augment(images, ["cutout"], rng(6))
    assert set(cut.unique().tolist()) == {0.0, 1.0}
    hole = cut[:, 0] == 0
    assert torch.equal(hole, (cut == 0).all(dim=1))
    assert torch.equal(hole, hole.any(2)[:, :, None] & hole.any(1)[:, None, :])
    for sides in (hole.any(2).sum(1), hole.any(1).sum(1)):
        assert int(sides.min()) == 4
        assert int(sides.max()) == 8
        # A centre u in 0..1 leaves min(u + 1/4, 1) - max(u - 1/4, 0), 7/16 on average.
        assert float(sides.float().mean()) == pytest.approx(16 * 7 / 16, rel=0.02)


def test_geometric_turns_about_the_centre_by_at_most_ten_degrees_and_repeats_edges():
    """A linear ramp is turned exactly by bilinear sampling, so its slope gives the angle."""
    size = 33
    axis = torch.linspace(-0.5, 0.5, size)
    ramp = axis.expand(200, 3, size, size).contiguous()
    turned = diff_augment(ramp, ["geometric"], rng())
    inner = turned[:, 0, 12:21, 12:21]
    dx = (inner[:, :, -1] - inner[:, :, 0]).mean(dim=1) / 8 * (size - 1)
    dy = (inner[:, -1] - inner[:, 0]).mean(dim=1) / 8 * (size - 1)
    angles = torch.atan2(dy, dx).rad2deg()
    scales = (dx.square() + dy.square()).sqrt()
    assert 8 < angles.abs().max() <= 10.01
    assert 0.89 < scales.min() < 0.92
    assert 1.08 < scales.max() < 1.11
    assert torch.allclose(turned[:, 0, 16, 16], torch.zeros(200), atol=1e-5)
    assert turned.min() >= -0.5
    assert turned.max() <= 0.5


def test_probability_leaves_the_rest_of_the_images_untouched():
    images = noise(2000)
    augmented = diff_augment(images, ["color"], rng(), probability=0.3)
    changed = (augmented != images).flatten(1).any(dim=1)
    assert 0.26 < changed.float().mean() < 0.34
    full = diff_augment(images, ["color"], rng())
    assert torch.equal(augmented[changed], full[changed])


@pytest.mark.parametrize("policy", POLICIES, ids="+".join)
@pytest.mark.parametrize("parts", [1, 2])
def test_shares_of_a_batch_are_augmented_as_the_batch_is(policy, parts):
    images = noise(12)
    whole = diff_augment(images, policy, rng(1), 0.7)
    for share in (Share(rank, 3, parts) for rank in range(3)):
        here = diff_augment(share.of(images), policy, rng(1), 0.7, share)
        assert torch.allclose(here, share.of(whole), atol=1e-6)
