import pytest
import torch
from torch.utils.data import DataLoader

from signforge.balance.lighting import BorrowedLight
from signforge.balance.relit_images import RelitImages
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError


@pytest.fixture(scope="module")
def real():
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (200, 3, 8, 8), generator=rng).to(torch.uint8)
    # The first class is dark, the second bright: a borrowed light is easy to see.
    images[:100] //= 4
    labels = torch.arange(2).repeat_interleave(100)
    names = tuple(str(n) for n in range(200))
    return LabeledImages(images, labels, torch.arange(200), ("dark", "bright"), names, "noise")


def pixels(dataset):
    return torch.stack([image for image, _ in dataset])


def test_labels_and_places_stay_and_half_of_the_images_change(real):
    dataset = RelitImages(real, BorrowedLight.of(real.images, real.labels), seed=3)
    assert len(dataset) == len(real)
    assert [label for _, label in dataset] == real.labels.tolist()
    same = (pixels(dataset) == real.images).flatten(1).all(1)
    assert 70 <= int(same.sum()) <= 130
    # Light of its own class comes in half of the cases, so a quarter of the dark are bright now.
    bright = pixels(dataset)[:100].float().mean((1, 2, 3)) > 80
    assert 12 <= int(bright.sum()) <= 40


def test_an_epoch_is_drawn_from_seed_and_number_alone(real):
    light = BorrowedLight.of(real.images, real.labels)
    first, second = (RelitImages(real, light, seed=3) for _ in range(2))
    before = pixels(first)
    first.set_epoch(5)
    second.set_epoch(9)
    second.set_epoch(5)
    assert torch.equal(pixels(first), pixels(second))
    assert not torch.equal(before, pixels(first))
    first.set_epoch(0)
    assert torch.equal(pixels(first), before)
    assert not torch.equal(pixels(RelitImages(real, light, seed=4)), before)


@pytest.mark.parametrize(("share", "changed"), [(0.0, 0), (1.0, 200)])
def test_the_ends_of_the_share(real, share, changed):
    dataset = RelitImages(real, lambda images, _seed: 255 - images, share=share)
    assert int((pixels(dataset) == 255 - real.images).flatten(1).all(1).sum()) == changed


def test_the_real_images_are_left_alone(real):
    before = real.images.clone()

    def in_place(images, _seed):
        return images.zero_()

    RelitImages(real, in_place, share=1.0)
    assert torch.equal(real.images, before)


def test_workers_see_the_images_of_the_epoch(real):
    dataset = RelitImages(real, BorrowedLight.of(real.images, real.labels))
    dataset.set_epoch(2)
    batches = DataLoader(dataset, batch_size=50, num_workers=2)
    assert torch.equal(torch.cat([images for images, _ in batches]), pixels(dataset))


def test_what_is_no_relit_image_is_refused(real):
    with pytest.raises(SignforgeError, match="relight must return uint8"):
        RelitImages(real, lambda images, _seed: images.float())
