"""What items of SyntheticBalancedDataset carry, and where its synthetic images live."""

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset
from torchvision.transforms import v2

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.errors import SignforgeError
from support.items import equal

SEEDS = {"seed": 11, "refresh": 0.25}


@pytest.fixture
def balanced(make_real, make_sampler):
    """The default: no gate, no plan, pairs, images in memory."""
    return SyntheticBalancedDataset(make_real(), make_sampler(), **SEEDS)


@pytest.mark.parametrize("transform", [None, v2.RandomInvert(p=1.0)])
def test_third_element(balanced, make_real, make_sampler, transform):
    balanced.transform = transform
    for wanted in ("is_synthetic", "index"):
        dataset = SyntheticBalancedDataset(
            make_real(), make_sampler(), third_element=wanted, transform=transform, **SEEDS
        )
        rows = [0, 35, -1, 20, np.int64(3)]
        for item, row in zip(dataset.__getitems__(rows), rows, strict=True):
            image, label, third = item
            assert equal((image, label), balanced[row])
            assert equal(item, dataset[row])
            expected = balanced.is_synthetic(row) if wanted == "is_synthetic" else int(row) % 36
            assert equal(third, expected)
    collated = [third for _, _, third in DataLoader(dataset, batch_size=7)]
    assert torch.cat(collated).tolist() == list(range(36))
    shuffled = Subset(dataset, [30, 2])
    assert next(iter(DataLoader(shuffled, batch_size=2)))[2].tolist() == [30, 2]


def test_a_real_stand_in_is_not_called_synthetic(make_real, make_sampler):
    with pytest.warns(UserWarning, match="oversampled"):
        dataset = SyntheticBalancedDataset(
            make_real(),
            make_sampler(),
            gate=lambda _, labels: labels != 2,
            third_element="is_synthetic",
        )
    flags = torch.cat([third for _, _, third in DataLoader(dataset, batch_size=7)])
    assert flags.dtype == torch.bool
    assert flags.tolist() == [dataset.is_synthetic(i) for i in range(36)]
    assert int(flags.sum()) == 9


def test_unknown_third_element(make_real, make_sampler):
    with pytest.raises(SignforgeError, match="must be one of none, is_synthetic, index, got 'flag"):
        SyntheticBalancedDataset(make_real(), make_sampler(), third_element="flag")


def test_rows_of_the_pool(make_real, make_sampler):
    with pytest.warns(UserWarning, match="oversampled"):
        dataset = SyntheticBalancedDataset(
            make_real(), make_sampler(), gate=lambda _, labels: labels != 2, **SEEDS
        )
    everything = torch.arange(36)
    rows, shown = dataset.pool_rows(everything), dataset.real_indices(everything)
    assert torch.equal(rows >= 0, shown < 0)
    for i in everything.tolist():
        if rows[i] >= 0:
            assert torch.equal(dataset[i][0], dataset.pool_images[rows[i]])
        else:
            assert equal(dataset[i], dataset.real[int(shown[i])])


def test_a_pool_in_a_file_gives_the_same_items(balanced, make_real, make_sampler, tmp_path):
    filed = SyntheticBalancedDataset(
        make_real(), make_sampler(), memory_cap_mib=0, pool_folder=str(tmp_path), **SEEDS
    )
    for epoch in (0, 2):
        balanced.set_epoch(epoch)
        filed.set_epoch(epoch)
        assert all(equal(filed[i], balanced[i]) for i in range(36))


def test_a_pool_on_another_device(make_real, make_sampler):
    # "meta" is the one device besides the CPU that every machine has: it keeps no pixels, and
    # items must not touch it
    options = {"pool_device": "meta", "transform": None, **SEEDS}
    dataset = SyntheticBalancedDataset(make_real(), make_sampler(), **options)
    assert dataset.third_element == "index"
    assert dataset.pool_images.device.type == "meta"
    real = make_real()
    for shown in (dataset, pickle.loads(pickle.dumps(dataset))):
        images, labels, indices = next(iter(DataLoader(shown, batch_size=36)))
        assert torch.equal(images[:20], real.images)
        assert not images[20:].any()
        assert labels.tolist() == dataset.targets
        assert indices.tolist() == list(range(36))
        assert equal(shown[25], (images[25], 2, 25))
    with pytest.raises(SignforgeError, match="does not go with a pool on meta"):
        SyntheticBalancedDataset(
            real, make_sampler(), pool_device="meta", third_element="is_synthetic"
        )
    with pytest.raises(SignforgeError, match="Unknown device 'tpu9000'"):
        SyntheticBalancedDataset(real, make_sampler(), pool_device="tpu9000")
