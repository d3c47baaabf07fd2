"""Real data sets x what consumes them: each cell runs the real thing (see docs/balance.md)."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, DistributedSampler, Subset, default_collate
from torchvision.datasets import GTSRB
from torchvision.transforms import v2

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.errors import SignforgeError
from support.real_datasets import (
    SIDE,
    Case,
    cifar10,
    concat_of_gtsrb_and_cifar10,
    concat_of_image_folders,
    gtsrb,
    hugging_face,
    image_folder,
    labeled_images,
    stack_of_columns,
    subset_of_cifar10,
    subset_of_gtsrb,
    tensor_dataset,
)

TO_INPUT = v2.Compose(
    [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Resize((SIDE, SIDE), antialias=True),
        v2.ToPureTensor(),
    ]
)


PIL = (
    image_folder,
    gtsrb,
    cifar10,
    subset_of_gtsrb,
    subset_of_cifar10,
    concat_of_image_folders,
    concat_of_gtsrb_and_cifar10,
    stack_of_columns,
    hugging_face,
)


def over(*builders: Callable[[Path], Case]) -> pytest.MarkDecorator:
    """Runs a test once for each data set, which its fixture ``case`` then is."""
    return pytest.mark.parametrize(
        "case", builders, ids=lambda builder: builder.__name__, indirect=True
    )


every_data_set = over(*PIL, labeled_images, tensor_dataset)


@pytest.fixture(scope="module")
def case(request, tmp_path_factory) -> Case:
    return request.param(tmp_path_factory.mktemp(request.param.__name__))


@pytest.fixture
def balanced(case, make_sampler) -> Callable[..., SyntheticBalancedDataset]:
    """A new SyntheticBalancedDataset over the data set of the test."""

    def make(**options: Any) -> SyntheticBalancedDataset:
        sampler = make_sampler(case.class_names, SIDE)
        return SyntheticBalancedDataset(case.real, sampler, seed=4, **options)

    return make


def pixels(image: object) -> Tensor:
    """(3, H, W) of the dtype that the image has."""
    return image if isinstance(image, Tensor) else v2.functional.pil_to_tensor(image)


def described(item: tuple[Any, Any]) -> tuple[object, ...]:
    """All that a consumer may rely on but the values."""
    image, label = item
    if isinstance(image, Image.Image):  # files that are open have a type of their own
        kind, mode = Image.Image, image.mode
    else:
        kind, mode = type(image), image.dtype
    return type(item), kind, mode, type(label), getattr(label, "dtype", None)


def inputs(case: Case, dataset: SyntheticBalancedDataset) -> Tensor:
    """float (N, 3, 16, 16): real images as their own data set gives them, then synthetic ones."""
    real = [TO_INPUT(image) for image, _ in case.real]
    synthetic = [TO_INPUT(dataset[i][0]) for i in range(len(real), len(dataset))]
    return torch.stack(real + synthetic)


@every_data_set
def test_items(case, balanced):
    dataset = balanced()
    n = len(case.labels)
    assert dataset.class_names == case.class_names
    assert dataset.real_counts.tolist() == case.counts
    assert dataset.class_counts.tolist() == [max(case.counts)] * len(case.counts)
    assert dataset.targets == case.balanced_labels
    assert [int(label) for _, label in dataset] == case.balanced_labels
    for i in range(n):
        assert described(dataset[i]) == described(case.real[i])
        assert torch.equal(pixels(dataset[i][0]), pixels(case.real[i][0]))
    sizes = {pixels(image).shape for image, _ in case.real}
    expected_size = sizes.pop() if len(sizes) == 1 else (3, SIDE, SIDE)
    for i in range(n, len(dataset)):
        assert dataset.is_synthetic(i)
        assert described(dataset[i]) == described(case.real[0])
        red = pixels(dataset[i][0])[0].float() / (255 if pixels(dataset[i][0]).max() > 1 else 1)
        darkest = case.balanced_labels[i] * 53 % 224 / 255
        assert pixels(dataset[i][0]).shape == expected_size
        assert darkest - 1e-6 <= red.min() <= red.max() <= darkest + 31 / 255 + 1e-6


@every_data_set
def test_default_collate(case, balanced):
    dataset = balanced(transform=TO_INPUT)
    images, labels = map(torch.cat, zip(*DataLoader(dataset, batch_size=4), strict=True))
    dataset.transform = None
    assert torch.equal(images, inputs(case, dataset))
    assert labels.dtype == torch.int64
    assert labels.tolist() == case.balanced_labels


@every_data_set
def test_transform_may_be_set_later(case, balanced):
    dataset = balanced()
    expected = inputs(case, dataset)
    first, last = dataset[0][0], dataset[-1][0]
    dataset.transform = TO_INPUT
    assert torch.equal(torch.stack([image for image, _ in dataset]), expected)
    dataset.transform = None
    assert torch.equal(pixels(dataset[0][0]), pixels(first))
    assert torch.equal(pixels(dataset[-1][0]), pixels(last))


def timm_batches(dataset: SyntheticBalancedDataset, *, use_prefetcher: bool) -> list[Any]:
    from timm.data import create_loader

    loader = create_loader(
        dataset,
        input_size=(3, SIDE, SIDE),
        batch_size=4,
        use_prefetcher=use_prefetcher,
        mean=(0.5, 0.25, 0.0),
        std=(1.0, 2.0, 0.5),
        crop_pct=1.0,
        crop_mode="squash",
        num_workers=0,
        persistent_workers=False,
        device=torch.device("cpu"),
    )
    return list(loader)


def check_timm(case: Case, dataset: SyntheticBalancedDataset, *, use_prefetcher: bool) -> None:
    batches = timm_batches(dataset, use_prefetcher=use_prefetcher)
    images, labels = map(torch.cat, zip(*batches, strict=True))
    transform, dataset.transform = dataset.transform, None
    raw = [image for image, _ in case.real]
    raw += [dataset[i][0] for i in range(len(raw), len(dataset))]
    expected = torch.stack([transform(image) for image in raw])
    if use_prefetcher:
        assert expected.dtype == torch.uint8
        mean, std = torch.tensor([0.5, 0.25, 0.0]), torch.tensor([1.0, 2.0, 0.5])
        expected = (expected / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert torch.allclose(images, expected, atol=1e-6)
    assert images.unique().numel() > 100
    assert labels.tolist() == case.balanced_labels


@over(*PIL, labeled_images)
def test_timm_create_loader_with_prefetcher(case, balanced):
    check_timm(case, balanced(), use_prefetcher=True)


@over(*PIL, tensor_dataset)
def test_timm_create_loader_without_prefetcher(case, balanced):
    check_timm(case, balanced(), use_prefetcher=False)


@over(labeled_images)
def test_timm_without_prefetcher_refuses_uint8_tensors(balanced):
    with pytest.raises(TypeError, match="should be a float tensor"):
        timm_batches(balanced(), use_prefetcher=False)


@over(tensor_dataset)
def test_timm_with_prefetcher_cuts_float_tensors_to_black(balanced):
    """A trap of fast_collate, with our data sets as with any: it writes floats into uint8."""
    images = torch.cat([images for images, _ in timm_batches(balanced(), use_prefetcher=True)])
    assert images.unique().numel() <= 6  # 0 and 1 in each of three channels


def mixed_batch(mix: v2.Transform, dataset: SyntheticBalancedDataset) -> tuple[Tensor, Tensor]:
    """The whole data set as one batch, in its own order."""
    loader = DataLoader(
        dataset, batch_size=len(dataset), collate_fn=lambda items: mix(*default_collate(items))
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        ((images, labels),) = loader
    return images, labels


def own_share(soft: Tensor, labels: list[int]) -> float:
    """How much of each image is its own, the rest being the image before it."""
    row = next(i for i in range(len(labels)) if labels[i] != labels[i - 1])
    assert torch.allclose(soft.sum(dim=1), torch.ones(len(labels)))
    assert 0 < soft[row, labels[row]] < 1
    assert math.isclose(1 - soft[row, labels[row]], soft[row, labels[row - 1]], abs_tol=1e-6)
    return float(soft[row, labels[row]])


@every_data_set
def test_mixup_in_collate(case, balanced):
    dataset = balanced(transform=TO_INPUT)
    images, soft = mixed_batch(v2.MixUp(num_classes=len(case.class_names)), dataset)
    dataset.transform = None
    plain = inputs(case, dataset)
    share = own_share(soft, case.balanced_labels)
    assert torch.allclose(images, share * plain + (1 - share) * plain.roll(1, 0), atol=1e-6)


@every_data_set
def test_cutmix_in_collate(case, balanced):
    dataset = balanced(transform=TO_INPUT)
    images, soft = mixed_batch(v2.CutMix(num_classes=len(case.class_names)), dataset)
    dataset.transform = None
    plain = inputs(case, dataset)
    pasted = (images != plain).flatten(0, 1).any(dim=0)
    share = own_share(soft, case.balanced_labels)
    assert math.isclose(1 - share, float(pasted.float().mean()), abs_tol=1e-6)
    assert torch.equal(images, torch.where(pasted, plain.roll(1, 0), plain))


@every_data_set
def test_distributed_sampler_with_two_ranks(case, balanced):
    """Each rank makes its own data set, as two processes do."""
    whole = balanced()
    whole.set_epoch(3)
    expected = inputs(case, whole)
    seen: list[int] = []
    for rank in range(2):
        dataset = balanced(transform=TO_INPUT)
        sampler = DistributedSampler(dataset, num_replicas=2, rank=rank, seed=7)
        dataset.set_epoch(3)
        sampler.set_epoch(3)
        loader = DataLoader(dataset, batch_size=4, sampler=sampler)
        images, labels = map(torch.cat, zip(*loader, strict=True))
        own = list(sampler)
        assert torch.equal(images, expected[own])
        assert labels.tolist() == [case.balanced_labels[i] for i in own]
        seen += own
    assert set(seen) == set(range(len(whole)))
    assert len(seen) == len(whole) + len(whole) % 2


def test_real_gtsrb_through_torchvision(data_root, tmp_path, make_sampler):
    """GTSRB's own files in their own sizes, in the folder that torchvision unpacks them to."""
    images = data_root / "gtsrb-native" / "GTSRB" / "Final_Training" / "Images"
    if not images.is_dir():
        pytest.skip("SIGNFORGE_DATA holds no gtsrb-native/")
    (tmp_path / "gtsrb" / "GTSRB").mkdir(parents=True)
    (tmp_path / "gtsrb" / "GTSRB" / "Training").symlink_to(images)
    whole = GTSRB(tmp_path, split="train")
    labels = [label for _, label in whole._samples]
    rows = [row for label, count in ((0, 7), (1, 3)) for row in _rows(labels, label)[:count]]
    real = Subset(whole, rows)
    dataset = SyntheticBalancedDataset(real, make_sampler(("20", "30"), SIDE), transform=TO_INPUT)
    assert dataset.synthetic_counts.tolist() == [0, 4]
    pixels_of, found = next(iter(DataLoader(dataset, batch_size=14)))
    assert found.tolist() == [0] * 7 + [1] * 7
    for i, row in enumerate(rows):
        with Image.open(whole._samples[row][0]) as file:
            assert torch.equal(pixels_of[i], TO_INPUT(file.convert("RGB")))


def _rows(labels: list[int], label: int) -> list[int]:
    return [row for row, own in enumerate(labels) if own == label]


def test_parts_of_differing_form_are_refused(tmp_path, make_sampler):
    folder, tensors = image_folder(tmp_path), labeled_images(tmp_path)
    parts = ConcatDataset([folder.real, tensors.real])
    with pytest.raises(SignforgeError, match="all items must have one form"):
        SyntheticBalancedDataset(parts, make_sampler(tensors.class_names, SIDE))
