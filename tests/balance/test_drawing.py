import numpy as np
import pytest
import torch
from PIL import Image

from signforge.balance.drawing import draw_images, resize
from signforge.errors import SignforgeError

LABELS = torch.tensor([2, 0, 2])


def test_images_are_the_samplers_own_and_writable(make_sampler):
    sampler = make_sampler()
    images = draw_images(sampler, LABELS, 5, (8, 8))
    assert torch.equal(images, sampler.sample(LABELS, 5))
    images.zero_()  # fails for a tensor made in inference mode


def test_images_have_the_size_that_is_asked_for(make_sampler):
    images = draw_images(make_sampler(resolution=16), LABELS, 0, (12, 10))
    assert images.shape == (3, 3, 12, 10)


def test_a_sampler_cannot_change_the_labels(make_sampler):
    sampler = make_sampler()
    sampler.sample = lambda labels, _: labels.fill_(9).new_zeros(3, 3, 8, 8).byte()
    labels = LABELS.clone()
    draw_images(sampler, labels, 0, (8, 8))
    assert torch.equal(labels, LABELS)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda labels, _: torch.zeros(len(labels), 3, 8, 8), "returned torch.float32"),
        (lambda *_: torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"shape \(1, 3, 8, 8\)"),
        (
            lambda *_: np.zeros((3, 3, 8, 8), dtype=np.uint8),
            r"must return a tensor of uint8 .*, returned ndarray\.",
        ),
        (lambda *_: None, "returned NoneType"),
    ],
)
def test_bad_sampler(make_sampler, bad, message):
    sampler = make_sampler()
    sampler.sample = bad
    with pytest.raises(SignforgeError, match=message):
        draw_images(sampler, LABELS, 0, (8, 8))


def test_resize_is_antialiased_like_pillow():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    reference = np.asarray(Image.fromarray(pixels).resize((16, 12), Image.Resampling.BILINEAR))
    ours = resize(image, (12, 16))[0].permute(1, 2, 0).numpy()
    assert np.abs(ours.astype(int) - reference.astype(int)).max() <= 1
    assert resize(image, (40, 30)) is image
