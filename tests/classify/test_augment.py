from itertools import pairwise

import pytest
import torch
from torch import Tensor

from signforge.classify.augment import MEAN, STD, augment_batch, normalise


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 8, size: int = 16) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=rng(9), dtype=torch.uint8)


def pixels(normalised: Tensor) -> Tensor:
    """Back to 0..1."""
    return normalised * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)


def test_normalise_agrees_with_torchvision() -> None:
    from torchvision.transforms.v2 import functional as tv

    expected = tv.normalize(tv.to_dtype(images(), torch.float32, scale=True), MEAN, STD)
    torch.testing.assert_close(normalise(images()), expected)


def test_none_only_normalises() -> None:
    assert torch.equal(augment_batch(images(), "none", rng()), normalise(images()))


def test_same_rng_same_batch_and_other_rng_another() -> None:
    first, again = (augment_batch(images(), "basic", rng(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augment_batch(images(), "basic", rng(4)))


def test_images_of_one_batch_move_differently() -> None:
    same = images(1).expand(6, 3, 16, 16)
    moved = augment_batch(same, "basic", rng())
    assert all(not torch.equal(moved[0], moved[i]) for i in range(1, 6))


def test_values_stay_images_and_input_is_untouched() -> None:
    given = images(64)
    kept = given.clone()
    moved = pixels(augment_batch(given, "basic", rng()))
    assert moved.dtype == torch.float32
    assert moved.shape == given.shape
    assert float(moved.min()) >= -1e-5
    assert float(moved.max()) <= 1 + 1e-5
    assert torch.equal(given, kept)


def test_every_image_has_a_brightness_of_its_own_within_the_limits() -> None:
    grey = torch.full((500, 3, 8, 8), 128, dtype=torch.uint8)
    moved = pixels(augment_batch(grey, "basic", rng())) / (128 / 255)
    brightness = moved.mean(dim=(1, 2, 3))
    torch.testing.assert_close(moved, brightness.view(-1, 1, 1, 1).expand_as(moved))
    assert 0.8 - 1e-4 < float(brightness.min()) < 0.85
    assert 1.15 < float(brightness.max()) < 1.2 + 1e-4
    assert float(brightness.mean()) == pytest.approx(1, abs=0.03)


def test_every_image_has_a_contrast_of_its_own_within_the_limits() -> None:
    """Two tones stay flat away from the edge between them, so they are the darkest and lightest."""
    two_tones = torch.full((500, 3, 16, 16), 100, dtype=torch.uint8)
    two_tones[..., 8:] = 150
    moved = pixels(augment_batch(two_tones, "basic", rng()))
    contrast = (moved.amax(dim=(1, 2, 3)) - moved.amin(dim=(1, 2, 3))) / (50 / 255)
    assert 0.8 - 1e-4 < float(contrast.min()) < 0.85
    assert 1.15 < float(contrast.max()) < 1.2 + 1e-4
    assert float(contrast.mean()) == pytest.approx(1, abs=0.03)
    together = torch.stack([contrast, moved.mean(dim=(1, 2, 3))])
    assert abs(float(together.corrcoef()[0, 1])) < 0.2  # drawn apart from the brightness


@pytest.mark.parametrize("seed", range(5))
def test_never_flips(seed: int) -> None:
    """Four quadrants of different brightness stay where they are in every image."""
    quadrants = torch.tensor([[40, 90], [140, 220]], dtype=torch.uint8)
    image = quadrants.repeat_interleave(16, 0).repeat_interleave(16, 1).expand(200, 3, 32, 32)
    moved = pixels(augment_batch(image, "basic", rng(seed))).mean(dim=1)
    corners = [moved[:, y : y + 6, x : x + 6].mean(dim=(1, 2)) for y in (4, 22) for x in (4, 22)]
    for darker, brighter in pairwise(corners):
        assert bool((darker < brighter).all())


def test_poses_stay_within_their_limits() -> None:
    """A bright dot off centre moves, but never further than shift, scale and turn together do."""
    size, at = 64, 44
    image = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    image[:, :, at - 2 : at + 2, at - 2 : at + 2] = 255
    moved = pixels(augment_batch(image.expand(500, -1, -1, -1), "basic", rng()))[:, 0]
    weight = moved / moved.sum(dim=(1, 2), keepdim=True)
    coordinate = torch.arange(size) + 0.5
    x = (weight.sum(dim=1) * coordinate).sum(dim=1)
    y = (weight.sum(dim=2) * coordinate).sum(dim=1)
    distance = ((x - at) ** 2 + (y - at) ** 2).sqrt()
    # 2 ** 0.5 * 12 pixels from the centre: 10 % larger, turned by 7 degrees, shifted by 3.2 on
    # each axis, which zoom enlarges once more.
    assert float(distance.max()) < 2**0.5 * (12 * 0.17 + 3.2 * 1.1) + 0.5
    assert float(distance.max()) > 3.2
    assert float(distance.std()) > 0.7
