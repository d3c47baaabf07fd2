import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, Subset, TensorDataset
from torchvision.transforms import v2

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.balance.device_loader import OnDeviceLoader
from signforge.errors import SignforgeError

NAMES = ("stop", "yield", "no entry", "ahead")
SEEDS = {"seed": 11, "refresh": 0.25}


class LeavingHoles(SyntheticBalancedDataset):
    """Black where items are synthetic, as with a pool on an accelerator."""

    def __getitems__(self, indices):
        items = super().__getitems__(indices)
        for image, _, index in items:
            if self.is_synthetic(index):
                image.zero_()
        return items


def in_dtype(real, dtype):
    images = v2.functional.to_dtype(real.images, dtype, scale=True)
    return TensorDataset(images, real.labels)


def some_pass(images, labels):
    """Nothing of class 2, about half of the others."""
    return (images[:, 0, 0, 0] % 2 == 0) & (labels != 2)


@pytest.fixture
def make_both(make_real, make_sampler):
    """The ordinary data set, and the one for OnDeviceLoader."""

    def make(dtype=torch.uint8, **options):
        options |= SEEDS
        real = in_dtype(make_real(), dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the gate's
            return (
                SyntheticBalancedDataset(real, make_sampler(), **options),
                LeavingHoles(real, make_sampler(), third_element="index", **options),
            )

    return make


@pytest.fixture
def holes(make_both):
    return make_both()[1]


def assert_same(one, other):
    assert len(one) == len(other)
    for ours, theirs in zip(one, other, strict=True):
        assert len(ours) == len(theirs) == 2
        for mine, reference in zip(ours, theirs, strict=True):
            assert mine.dtype == reference.dtype
            assert torch.equal(mine, reference)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16])
def test_pixels_and_labels_of_the_ordinary_mode(make_both, dtype):
    ordinary, ours = make_both(dtype)
    loader = OnDeviceLoader(DataLoader(ours, batch_size=7), ours, device="cpu")
    for epoch in (0, 1, 4):
        ordinary.set_epoch(epoch)
        loader.set_epoch(epoch)
        assert ours.epoch == epoch
        assert_same(loader, DataLoader(ordinary, batch_size=7))


@pytest.mark.parametrize("min_acceptance", [0.0, 0.1], ids=["slot by slot", "whole class"])
def test_real_images_that_stand_in_are_left(make_both, min_acceptance):
    ordinary, ours = make_both(gate=some_pass, gate_attempts=1, min_acceptance=min_acceptance)
    assert ordinary.oversampled_counts[2] == 7
    loader = OnDeviceLoader(DataLoader(ours, batch_size=36), ours, device="cpu")
    assert_same(loader, DataLoader(ordinary, batch_size=36))


def test_shuffled_subsets(make_both):
    ordinary, ours = make_both()
    chosen = [35, 3, 20, 0, 28, 19, 30]

    def loader(dataset):
        rng = torch.Generator().manual_seed(5)
        subset = Subset(Subset(dataset, chosen), [0, 1, 2, 4, 5, 6])
        return DataLoader(subset, batch_size=4, shuffle=True, generator=rng)

    assert_same(OnDeviceLoader(loader(ours), ours, device="cpu"), loader(ordinary))


def test_transform_gets_whole_batches_of_both_kinds(make_both):
    ordinary, ours = make_both()
    transform = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.2])])
    loader = DataLoader(ours, batch_size=9)
    on_device = OnDeviceLoader(loader, ours, device=torch.device("cpu"), transform=transform)
    ordinary.transform = transform
    assert_same(on_device, DataLoader(ordinary, batch_size=9))


@pytest.mark.parametrize("in_batch_sampler", [False, True])
def test_set_epoch_reaches_a_distributed_sampler(holes, in_batch_sampler):
    sampler = DistributedSampler(holes, num_replicas=2, rank=1)
    if in_batch_sampler:
        loader = DataLoader(holes, batch_sampler=BatchSampler(sampler, 5, drop_last=True))
    else:
        loader = DataLoader(holes, sampler=sampler, batch_size=5, drop_last=True)
    on_device = OnDeviceLoader(loader, holes, device="cpu")
    on_device.set_epoch(3)
    assert sampler.epoch == holes.epoch == 3
    assert len(on_device) == len(list(on_device)) == 3
    expected = [holes.targets[i] for i in list(sampler)[:15]]
    assert torch.cat([labels for _, labels in on_device]).tolist() == expected


def test_progress_of_an_epoch_is_passed_on(holes):
    seen = []

    def track(items, description, total):
        seen.append((description, total))
        return iter(items)

    OnDeviceLoader(DataLoader(holes), holes, device="cpu").set_epoch(1, track=track)
    assert seen == [("Drawing synthetic images", 4)]


def test_a_transform_of_the_data_set_is_refused(holes):
    loader = DataLoader(holes, batch_size=4)
    on_device = OnDeviceLoader(loader, holes, device="cpu")
    holes.transform = v2.Identity()
    for refused in (
        lambda: OnDeviceLoader(loader, holes, device="cpu"),
        lambda: next(iter(on_device)),
    ):
        with pytest.raises(SignforgeError, match="set its transform to None and pass it to OnDev"):
            refused()


def test_items_must_carry_their_index(make_both):
    ordinary, _ = make_both()
    with pytest.raises(SignforgeError, match="with third_element='index'"):
        OnDeviceLoader(DataLoader(ordinary), ordinary, device="cpu")


def test_the_loader_must_read_the_data_set(make_both, holes):
    _, other = make_both()
    for source in (other, Subset(other, [0])):
        with pytest.raises(SignforgeError, match="reads another data set than the one given"):
            OnDeviceLoader(DataLoader(source), holes, device="cpu")


@pytest.mark.parametrize(
    ("convert", "found"),
    [
        (v2.ToPILImage(), "Image"),
        (lambda image: image.permute(1, 2, 0).numpy(), "ndarray"),
    ],
    ids=["PIL", "numpy"],
)
def test_images_must_be_tensors(make_real, make_sampler, convert, found):
    real = [(convert(image), label) for image, label in make_real()]
    dataset = SyntheticBalancedDataset(real, make_sampler(), third_element="index")
    with pytest.raises(SignforgeError, match=rf"here \(3, 8, 8\), and the first is {found}"):
        OnDeviceLoader(DataLoader(dataset), dataset, device="cpu")


@pytest.mark.parametrize(
    "collate",
    [
        lambda items: items,
        lambda items: torch.utils.data.default_collate(items)[:2],
        lambda items: (*torch.utils.data.default_collate(items)[:2], np.zeros(4)),
    ],
    ids=["items", "pairs", "numpy"],
)
def test_batches_must_be_those_of_default_collate(holes, collate):
    loader = DataLoader(holes, batch_size=4, collate_fn=collate)
    with pytest.raises(SignforgeError, match="leave its collate_fn at the default"):
        next(iter(OnDeviceLoader(loader, holes, device="cpu")))


def test_unknown_device(holes):
    with pytest.raises(SignforgeError, match="Unknown device 'gpu'"):
        OnDeviceLoader(DataLoader(holes), holes, device="gpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("pool_device", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_on_a_gpu(make_real, make_sampler, pool_device, dtype):
    real = in_dtype(make_real(), dtype)
    ordinary = SyntheticBalancedDataset(real, make_sampler(), **SEEDS)
    ours = SyntheticBalancedDataset(
        real, make_sampler(), third_element="index", pool_device=pool_device, **SEEDS
    )
    loader = DataLoader(ours, batch_size=7, num_workers=2, pin_memory=True, persistent_workers=True)
    on_device = OnDeviceLoader(loader, ours, device="cuda")
    for epoch in (0, 1):
        ordinary.set_epoch(epoch)
        on_device.set_epoch(epoch)
        batches = list(on_device)
        assert {part.device.type for batch in batches for part in batch} == {"cuda"}
        batches = [(images.cpu(), labels.cpu()) for images, labels in batches]
        assert_same(batches, DataLoader(ordinary, batch_size=7))
