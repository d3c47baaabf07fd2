import copy
import pickle
import warnings

import pytest
import torch
from torch.utils.data import DataLoader, get_worker_info

from signforge.balance import storage
from signforge.balance.lighting import BorrowedLight
from signforge.balance.relit_images import RelitImages
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from support.processes import FORKS


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


@pytest.mark.parametrize("start_method", ["fork", FORKS], ids=["fork", "forkserver"])
def test_persistent_workers_see_the_images_of_every_epoch(real, start_method):
    dataset = RelitImages(real, BorrowedLight.of(real.images, real.labels))
    loader = DataLoader(
        dataset,
        batch_size=50,
        num_workers=1,
        multiprocessing_context=start_method,
        persistent_workers=True,
    )
    seen = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        for epoch in (0, 3):
            dataset.set_epoch(epoch)
            seen.append(torch.cat([images for images, _ in loader]))
            assert torch.equal(seen[-1], pixels(dataset))
    assert not torch.equal(*seen)


def set_another_epoch(_):
    get_worker_info().dataset.set_epoch(4)


@pytest.mark.parametrize("start_method", ["fork", FORKS], ids=["fork", "forkserver"])
def test_a_worker_that_sets_the_epoch_is_refused_and_changes_nothing(real, start_method):
    dataset = RelitImages(real, BorrowedLight.of(real.images, real.labels))
    before = pixels(dataset)
    loader = DataLoader(
        dataset,
        num_workers=1,
        multiprocessing_context=start_method,
        worker_init_fn=set_another_epoch,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*fork.*", category=DeprecationWarning)
        with pytest.raises(SignforgeError, match="a copy of the data set: call set_epoch on"):
            next(iter(loader))
    assert torch.equal(pixels(dataset), before)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_any_other_copy_has_its_own_epochs(real, duplicate):
    dataset = RelitImages(real, BorrowedLight.of(real.images, real.labels))
    before = pixels(dataset)
    twin = duplicate(dataset)
    assert torch.equal(pixels(twin), before)
    twin.set_epoch(4)
    assert torch.equal(pixels(dataset), before)
    dataset.set_epoch(4)
    assert torch.equal(pixels(twin), pixels(dataset))


def test_changing_an_item_leaves_the_data_set_alone(real):
    dataset = RelitImages(real, BorrowedLight.of(real.images, real.labels))
    before = pixels(dataset)
    dataset[3][0].zero_()
    assert torch.equal(pixels(dataset), before)


def test_no_room_is_one_sentence(real, monkeypatch):
    monkeypatch.setattr(storage, "_free_memory", lambda: 0)
    with pytest.raises(SignforgeError, match=r"that RelitImages takes beside the real images: "):
        RelitImages(real, BorrowedLight.of(real.images, real.labels))


def test_what_is_no_relit_image_is_refused(real):
    with pytest.raises(SignforgeError, match="relight must return uint8"):
        RelitImages(real, lambda images, _seed: images.float())
