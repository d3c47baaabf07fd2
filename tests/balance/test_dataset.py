import hashlib
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset
from torchvision.transforms import functional as TF
from torchvision.transforms import v2

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.balance.relit_images import RelitImages
from signforge.config import GanConfig
from signforge.errors import SignforgeError
from signforge.gan.sampler import GeneratorCard, build_generator, save_sampler
from support.items import equal

NAMES = ("stop", "yield", "no entry", "ahead")
SEEDS = {"seed": 11, "refresh": 0.25}


def batches(dataset, **options):
    return list(DataLoader(dataset, batch_size=7, **options))


@pytest.fixture
def balanced(make_real, make_sampler):
    return SyntheticBalancedDataset(make_real(), make_sampler(), **SEEDS)


def test_counts(balanced, make_real):
    assert balanced.real_counts.tolist() == [5, 9, 2, 4]
    assert balanced.class_counts.tolist() == [9, 9, 9, 9]
    assert balanced.synthetic_counts.tolist() == [4, 0, 7, 5]
    assert balanced.oversampled_counts.tolist() == [0, 0, 0, 0]
    assert balanced.acceptance.isnan().tolist() == [True] * 4
    assert len(balanced) == 36
    assert balanced.targets == make_real().targets + [0] * 4 + [2] * 7 + [3] * 5
    assert balanced.num_classes == 4
    assert balanced.class_names == NAMES
    assert [balanced.is_synthetic(i) for i in range(36)] == [False] * 20 + [True] * 16


def test_items_carry_the_labels_of_targets(balanced):
    assert [label for _, label in balanced] == balanced.targets
    for i in range(20, 36):
        image, label = balanced[i]
        assert image[0].min() // 53 == label


def test_strategy_and_cap_are_passed_on(make_real, make_sampler):
    dataset = SyntheticBalancedDataset(
        make_real(), make_sampler(), sampling_strategy={"stop": 100}, max_synthetic_fraction=0.5
    )
    assert dataset.class_counts.tolist() == [10, 9, 2, 4]


def test_synthetic_images_take_the_size_of_the_real(make_real, make_sampler):
    dataset = SyntheticBalancedDataset(make_real(resolution=12), make_sampler(resolution=16))
    assert dataset[-1][0].shape == (3, 12, 12)
    assert next(iter(DataLoader(dataset, batch_size=36)))[0].shape == (36, 3, 12, 12)


class Wrapped(Dataset):
    """Another form of the same items."""

    def __init__(self, real, convert):
        self.real, self.convert, self.targets = real, convert, real.targets

    def __len__(self):
        return len(self.real)

    def __getitem__(self, index):
        image, label = self.real[index]
        return self.convert(image), label


@pytest.mark.parametrize(
    "convert",
    [
        partial(TF.convert_image_dtype, dtype=torch.float32),
        v2.ToPILImage(),
        lambda image: image.permute(1, 2, 0).numpy(),
    ],
    ids=["float", "PIL", "numpy"],
)
def test_synthetic_items_take_the_form_of_the_real(balanced, make_real, make_sampler, convert):
    dataset = SyntheticBalancedDataset(Wrapped(make_real(), convert), make_sampler(), **SEEDS)
    for i in (0, 25):
        assert equal(dataset[i], (convert(balanced[i][0]), balanced[i][1]))


def test_tensor_dataset_has_tensor_labels(balanced, make_real, make_sampler):
    real = make_real()
    tensors = TensorDataset(real.images, real.labels)
    dataset = SyntheticBalancedDataset(tensors, make_sampler(), **SEEDS)
    assert equal(dataset[25], (balanced[25][0], torch.tensor(balanced[25][1])))
    assert dataset.class_names == NAMES
    images, labels = next(iter(DataLoader(dataset, batch_size=36)))
    assert labels.tolist() == dataset.targets
    assert equal(images[25], dataset[25][0])


@pytest.mark.parametrize("convert", [None, v2.ToPILImage()], ids=["batched", "item by item"])
def test_a_batch_equals_its_items(make_real, make_sampler, convert):
    real = make_real() if convert is None else Wrapped(make_real(), convert)
    transform = v2.RandomInvert(p=1.0)
    dataset = SyntheticBalancedDataset(real, make_sampler(), transform=transform, **SEEDS)
    indices = [35, 0, 20, -1, 3, 3, 21, np.int64(4), torch.tensor(30)]
    for item, index in zip(dataset.__getitems__(indices), indices, strict=True):
        assert equal(item, dataset[index])
    assert dataset.__getitems__([]) == []


def test_transform_applies_to_all_and_may_be_set_later(balanced):
    raw = [balanced[i][0] for i in range(36)]
    balanced.transform = v2.ToDtype(torch.float32, scale=True)
    for i in (0, 35):
        assert torch.equal(balanced[i][0], balanced.transform(raw[i]))
        assert balanced[i][0].dtype == torch.float32
    balanced.transform = None
    assert torch.equal(balanced[35][0], raw[35])


def test_indices_behave_like_a_list(balanced):
    assert equal(balanced[-1], balanced[35])
    assert equal(balanced[-36], balanced[0])
    for index in (36, -37):
        with pytest.raises(IndexError, match="out of range for 36 items"):
            balanced[index]
        with pytest.raises(IndexError):
            balanced.__getitems__([0, index])
        with pytest.raises(IndexError):
            balanced.is_synthetic(index)
    with pytest.raises(TypeError):
        balanced[1.0]


def test_changing_an_item_leaves_the_dataset_alone(balanced):
    before = balanced[30][0].clone()
    balanced[30][0].zero_()
    balanced.__getitems__([30])[0][0].zero_()
    assert torch.equal(balanced[30][0], before)


def test_a_subset_of_it_and_it_on_subsets(balanced, make_real, make_sampler):
    subset = Subset(balanced, [0, 35, 22])
    images, labels = next(iter(DataLoader(subset, batch_size=3)))
    assert labels.tolist() == [balanced.targets[i] for i in (0, 35, 22)]
    assert torch.equal(images[1], balanced[35][0])
    real = make_real()
    halves = ConcatDataset([Subset(real, range(10)), Subset(real, range(10, 20))])
    dataset = SyntheticBalancedDataset(halves, make_sampler(), **SEEDS)
    assert all(equal(dataset[i], balanced[i]) for i in range(36))


def test_pickle_carries_images_but_no_generator(balanced):
    balanced.set_epoch(2)
    twin = pickle.loads(pickle.dumps(balanced))
    assert twin.epoch == 2
    assert all(equal(twin[i], balanced[i]) for i in range(36))
    with pytest.raises(SignforgeError, match="without the generator"):
        twin.set_epoch(9)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "a93dcef23cc1b6cf88fe45db0bacfbd49bf09150905ec7ff970fed6577e91892"),
        ({"refresh": 1.0}, "4af5f1582cf7a96b69d7897f3db429f8a3e999177b160c0fed6ebae32e2d9f5e"),
    ],
    ids=str,
)
def test_items_are_fixed_for_good(make_real, make_sampler, options, expected):
    # a change here means that trainings of earlier versions cannot be repeated
    real = make_real((5, 90, 2, 40))
    dataset = SyntheticBalancedDataset(real, make_sampler(), seed=11, **options)
    digest = hashlib.sha256()
    for epoch in (0, 1, 2, 7):
        dataset.set_epoch(epoch)
        for image, label in dataset.__getitems__(range(len(dataset))):
            digest.update(image.numpy().tobytes() + bytes([label]))
        for i in range(0, len(dataset), 17):
            digest.update(dataset[i][0].numpy().tobytes())
    assert digest.hexdigest() == expected


def test_epochs_may_be_skipped_and_revisited(balanced, make_real, make_sampler):
    other = SyntheticBalancedDataset(make_real(), make_sampler(), **SEEDS)
    for epoch in range(6):
        balanced.set_epoch(epoch)
    for epoch in (17, 2, 5):
        other.set_epoch(epoch)
    assert other.epoch == 5
    assert all(equal(other[i], balanced[i]) for i in range(36))


def painted(images, seed):
    return images.fill_(seed % 256)


def test_real_data_that_change_by_epoch_are_told_the_epoch(make_real, make_sampler):
    relit = RelitImages(make_real(), painted, share=1.0)
    dataset = SyntheticBalancedDataset(relit, make_sampler(), **SEEDS)
    reds = set()
    for epoch in (0, 3, 0):
        dataset.set_epoch(epoch)
        assert equal(dataset[4], relit[4])
        reds.add(int(dataset[4][0][0, 0, 0]))
    assert len(reds) == 2
    twin = pickle.loads(pickle.dumps(dataset))
    with pytest.raises(SignforgeError, match="without the generator"):
        twin.set_epoch(3)
    assert equal(twin[4], dataset[4])


def test_generator_may_be_a_run_directory(make_real, tmp_path):
    config = GanConfig(z_dim=4, base_channels=4, embedding_dim=4)
    real = make_real()
    card = GeneratorCard(
        gan=config,
        resolution=16,
        class_names=NAMES,
        class_counts=tuple(real.class_counts.tolist()),
        train_fingerprint=real.fingerprint,
        seen_kimg=0.0,
        seconds=0.0,
        weights_sha256="",
    )
    save_sampler(tmp_path, build_generator(config, num_classes=4, resolution=16), card)
    for path in (tmp_path, str(tmp_path)):
        dataset = SyntheticBalancedDataset(
            real, path, gate=lambda images, _: images[:, 0, 0, 0] > 0
        )
        dataset.set_epoch(1)
        assert dataset[-1][0].shape == (3, 8, 8)
        assert len(batches(dataset)) == 6


def test_a_path_that_is_no_run_directory(make_real, tmp_path):
    for path in (tmp_path, str(tmp_path)):
        with pytest.raises(SignforgeError, match=r"holds no generator\.json"):
            SyntheticBalancedDataset(make_real(), path)


def test_classes_must_be_the_generators(make_real, make_sampler):
    real, three = make_real(), make_sampler(NAMES[:3])
    with pytest.raises(SignforgeError, match="real data has 4 classes, the generator draws 3"):
        SyntheticBalancedDataset(real, three)
    unnamed = TensorDataset(real.images, real.labels)
    with pytest.raises(SignforgeError, match="real data has 4 classes, the generator draws 3"):
        SyntheticBalancedDataset(unnamed, three)
    with pytest.raises(SignforgeError, match="labels up to 3, but only 3 class names"):
        SyntheticBalancedDataset(unnamed, three, class_names=NAMES[:3])
    other = make_sampler(("stop", "no entry", "yield", "ahead"))
    with pytest.raises(SignforgeError, match="Class 1 is 'yield' in the real data but 'no entry'"):
        SyntheticBalancedDataset(real, other)
    renamed = SyntheticBalancedDataset(real, other, class_names=other.class_names)
    assert renamed.class_names == other.class_names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "class_names must be a tuple of str, got None"),
        ("stop", "class_names must be a tuple of str, got 'stop'"),
        (NAMES[:3], "class_names holds 3 names, but its num_classes is 4"),
    ],
    ids=["none", "str", "too few"],
)
def test_a_generator_with_names_for_some_classes_or_in_no_tuple(
    make_real, make_sampler, names, message
):
    sampler = make_sampler()
    sampler.class_names = names
    with pytest.raises(SignforgeError, match=message):
        SyntheticBalancedDataset(make_real(), sampler)
    sampler.class_names = ()
    assert SyntheticBalancedDataset(make_real(), sampler).class_names == NAMES


def test_a_last_class_without_images_is_named(make_real, make_sampler):
    real = make_real((5, 9, 2, 0))
    with pytest.raises(SignforgeError, match=r"class 3 \('ahead'\) has no real image"):
        SyntheticBalancedDataset(real, make_sampler())
    dataset = SyntheticBalancedDataset(real, make_sampler(), sampling_strategy={"stop": 6})
    assert dataset.class_counts.tolist() == [6, 9, 2, 0]


def test_what_is_no_generator(make_real):
    with pytest.raises(SignforgeError, match="generator is a Linear without num_classes, resol"):
        SyntheticBalancedDataset(make_real(), torch.nn.Linear(1, 1))


def test_normalised_images_are_refused(make_real, make_sampler):
    normalised = Wrapped(
        make_real(), v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.2])])
    )
    with pytest.raises(SignforgeError, match="pass the transform to SyntheticBalancedDataset"):
        SyntheticBalancedDataset(normalised, make_sampler())


def test_augmentation_inside_the_real_data_is_pointed_out(make_real, make_sampler):
    rng = torch.Generator().manual_seed(0)
    noisy = Wrapped(
        make_real(), lambda image: torch.randint(0, 9, image.shape, generator=rng).byte()
    )
    with pytest.warns(UserWarning, match="another image each time item 0 is read"):
        SyntheticBalancedDataset(noisy, make_sampler())


def test_empty_data(make_real, make_sampler):
    with pytest.raises(SignforgeError, match="The real data set is empty"):
        SyntheticBalancedDataset(Subset(make_real(), []), make_sampler())


def test_balanced_data_needs_no_synthetic_image(make_real, make_sampler):
    sampler = make_sampler()
    dataset = SyntheticBalancedDataset(make_real((3, 3, 3, 3)), sampler)
    dataset.set_epoch(4)
    assert len(dataset) == 12
    assert len(batches(dataset)) == 2
    assert sampler.calls == []


def test_progress_is_reported(make_real, make_sampler):
    seen = []

    def track(items, description, total):
        seen.append((description, total))
        return iter(items)

    dataset = SyntheticBalancedDataset(make_real(), make_sampler(), track=track)
    dataset.set_epoch(1, track=track)
    assert seen == [("Drawing synthetic images", 16), ("Drawing synthetic images", 4)]
