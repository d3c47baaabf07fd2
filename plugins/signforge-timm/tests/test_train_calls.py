"""The calls of timm's train.py on the installed timm: create_dataset, create_loader, set_epoch."""

import logging
from collections.abc import Iterator

import pytest
import signforge_timm
import torch
import torch.distributed as dist
from timm.data import FastCollateMixup, create_dataset, create_loader

import signforge
from signforge.balance.classifier_gate import fit_classifier_gate


def make_dataset(split: str, **changed: object) -> object:
    """With all that train.py passes."""
    passed = {
        "root": "demo",
        "split": split,
        "is_training": split == "train",
        "class_map": "",
        "download": False,
        "batch_size": 16,
        "seed": 42,
        "repeats": 0,
        "input_img_mode": "RGB",
        "input_key": None,
        "target_key": None,
        "num_samples": None,
        "trust_remote_code": False,
    }
    return create_dataset("torch/signforge", **{**passed, **changed})


def make_loader(dataset: object, *, workers: int, prefetcher: bool = True, **more: object):
    """As for evaluation unless told otherwise: items in order, nothing random."""
    return create_loader(
        dataset,
        **{"input_size": (3, 32, 32), "batch_size": 16, "crop_pct": 1.0, **more},
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        num_workers=workers,
        use_prefetcher=prefetcher,
        device=torch.device("cpu"),
    )


def set_loader_epoch(loader, epoch: int) -> None:
    """What train.py's ``_set_loader_epoch`` promises: data set and sampler learn the epoch."""
    if hasattr(loader.dataset, "set_epoch"):
        loader.dataset.set_epoch(epoch)
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(epoch)


def read(loader) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = map(torch.cat, zip(*loader, strict=True))
    return images, labels


def demo_splits() -> signforge.PreparedSplits:
    return signforge.load_prepared_splits(signforge.load_config("runs/gan/config.yaml").data)


def test_epochs_refresh_the_pool_alike_with_and_without_workers(caplog):
    caplog.set_level(logging.INFO, logger="signforge_timm")
    seen = []
    for workers in (0, 2):
        loader = make_loader(make_dataset("train"), workers=workers)
        inner = loader.loader
        assert inner.persistent_workers == (workers > 0)
        epochs = []
        for epoch in range(2):
            set_loader_epoch(loader, epoch)
            epochs.append(read(loader))
        seen.append(epochs)
    (images, labels), (later, later_labels) = seen[0]
    for one, other in zip(seen[0], seen[1], strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert torch.equal(labels, later_labels)
    assert labels.bincount().unique().numel() == 1
    num_real = len(demo_splits().train)
    assert torch.equal(images[:num_real], later[:num_real])
    changed = (images[num_real:] != later[num_real:]).flatten(1).any(dim=1)
    assert 0.2 < float(changed.float().mean()) < 0.3
    logged = [line for line in caplog.messages if ", class:real+synthetic+repeated: 0:" in line]
    assert [line.split(",")[0] for line in logged] == ["epoch 0", "epoch 1"] * 2


def test_training_loader_is_shuffled_augmented_and_normalised():
    dataset = make_dataset("train")
    loader = make_loader(dataset, workers=0, is_training=True, hflip=0.0, scale=(0.7, 1.0))
    set_loader_epoch(loader, 0)
    images, labels = read(loader)
    assert len(images) == len(dataset) // 16 * 16
    assert images.dtype == torch.float32
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert images.unique().numel() > 100
    assert labels.tolist() != sorted(labels.tolist())
    assert not torch.equal(images, read(loader)[0])


@pytest.mark.parametrize("options", [{"prefetcher": False}, {"auto_augment": "rand-m5-n2-mstd0.5"}])
def test_other_pipelines(options):
    loader = make_loader(make_dataset("train"), workers=0, is_training=True, hflip=0.0, **options)
    images, labels = next(iter(loader))
    assert images.shape == (16, 3, 32, 32)
    assert images.dtype == torch.float32
    assert labels.shape == (16,)


def test_mixup_in_collate():
    mixup = FastCollateMixup(mixup_alpha=1.0, num_classes=43, label_smoothing=0.0)
    loader = make_loader(make_dataset("train"), workers=0, is_training=True, collate_fn=mixup)
    _, soft = next(iter(loader))
    assert soft.shape == (16, 43)
    assert torch.allclose(soft.sum(dim=1), torch.ones(16))


@pytest.fixture
def one_process_group(tmp_path) -> Iterator[None]:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process_group")
def test_distributed_sampler_and_pool_both_learn_the_epoch():
    dataset = make_dataset("train")
    loader = make_loader(dataset, workers=0, is_training=True, distributed=True)
    orders = []
    for epoch in range(2):
        set_loader_epoch(loader, epoch)
        assert dataset.epoch == epoch
        orders.append(list(loader.sampler))
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(len(dataset)))
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    ("asked", "name"),
    [("train", "train"), ("validation", "val"), ("val", "val"), ("test", "test")],
)
def test_splits(asked, name):
    expected = getattr(demo_splits(), name)
    dataset = make_dataset(asked)
    images, labels = read(make_loader(dataset, workers=0, input_size=(3, 16, 16)))
    n = len(expected)
    assert (len(dataset) > n) == (name == "train")
    assert torch.equal((images[:n] * 255).round().to(torch.uint8), expected.images)
    assert torch.equal(labels[:n], expected.labels)


def test_split_of_another_name():
    with pytest.raises(signforge.SignforgeError, match="no split 'all'; choose one of train, "):
        make_dataset("all")


def test_download_is_refused():
    with pytest.raises(signforge.SignforgeError, match="signforge data inspect SOURCE --download"):
        make_dataset("train", download=True)


def test_evaluation_needs_no_generator(monkeypatch):
    monkeypatch.setenv("SIGNFORGE_SET", "data.demo_scale=0.01 data.resolution=16")
    monkeypatch.delenv("SIGNFORGE_GENERATOR")
    assert isinstance(make_dataset("test"), signforge_timm.PilImages)
    with pytest.raises(signforge.SignforgeError, match="SIGNFORGE_GENERATOR is not set"):
        make_dataset("train")


def test_generator_of_other_images_is_a_warning(monkeypatch, caplog):
    make_dataset("train")
    assert "may have seen" not in caplog.text
    monkeypatch.setenv("SIGNFORGE_SET", "data.split_seed=1")
    make_dataset("train")
    assert "runs/gan was trained on other images" in caplog.text


def test_plan_file_as_strategy(monkeypatch, tmp_path):
    counts = demo_splits().train.class_counts
    (tmp_path / "counts.yaml").write_text(f"14: {int(counts[14]) + 5}\n", encoding="utf-8")
    setting = f"balance.sampling_strategy={tmp_path / 'counts.yaml'}"
    monkeypatch.setenv("SIGNFORGE_SET", setting)
    filled = make_dataset("train").synthetic_counts
    assert filled.nonzero().flatten().tolist() == [14]
    assert int(filled[14]) == 5


@pytest.mark.filterwarnings("ignore:The gate keeps less than")
def test_gate_by_threshold_and_from_a_folder_are_one(monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="signforge_timm")
    monkeypatch.setenv("SIGNFORGE_SET", "classifier.name=test_resnet balance.gate_steps=2")
    monkeypatch.setenv("SIGNFORGE_GATE", "0.9")
    fitted = make_dataset("train")
    config = signforge.load_config(None, [("classifier.name", "test_resnet")]).classifier
    gate = fit_classifier_gate(
        demo_splits().train, config=config.model_copy(update={"steps": 2}), tau=0.9
    )
    gate.save(tmp_path / "gate")
    monkeypatch.setenv("SIGNFORGE_GATE", str(tmp_path / "gate"))
    loaded = make_dataset("train")
    assert torch.allclose(fitted.acceptance, loaded.acceptance, equal_nan=True)
    loaded.set_epoch(0)
    total = int(loaded.oversampled_counts.sum())
    assert total > 0
    assert f"+ {total:,} repeated" in caplog.text
