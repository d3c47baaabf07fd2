"""What signforge_timm leans on inside timm; each failure says what has moved."""

import importlib
import sys
from typing import Any

import pytest
import signforge_timm
import timm
import torch
from timm.data import create_dataset, create_loader, dataset_factory
from timm.data.scheduled_sampler import ScheduledTransformDataset

from signforge import SignforgeError

MOVED = f"timm {timm.__version__} moved what signforge_timm leans on: "


def test_table_of_torch_data_sets():
    table = getattr(dataset_factory, "_TORCH_BASIC_DS", None)
    assert isinstance(table, dict), MOVED + "dataset_factory._TORCH_BASIC_DS is gone"
    assert "cifar10" in table, MOVED + "_TORCH_BASIC_DS no longer holds torch/cifar10"
    assert table[signforge_timm.NAME] is signforge_timm.signforge_dataset


@pytest.mark.parametrize(
    ("split", "train"), [("train", True), ("validation", False), ("test", False)]
)
def test_how_create_dataset_calls_an_entry(monkeypatch, split, train):
    called: list[tuple[tuple[Any, ...], dict[str, Any], Any, Any]] = []

    def probe(*args: Any, **kwargs: Any) -> str:
        caller = sys._getframe(1)
        name, asked = caller.f_globals.get("__name__"), caller.f_locals.get("split")
        called.append((args, kwargs, name, asked))
        return "made"

    monkeypatch.setitem(dataset_factory._TORCH_BASIC_DS, "probe", probe)
    made = create_dataset("torch/probe", root="R", split=split, input_key=None)
    assert made == "made", MOVED + "create_dataset wraps what an entry returns"
    ((args, kwargs, name, asked),) = called
    expected = {"train": train, "root": "R", "download": False}
    assert (args, kwargs) == ((), expected), MOVED + "entries are called with other arguments"
    assert name == "timm.data.dataset_factory", MOVED + "entries are called from elsewhere"
    assert asked == split, MOVED + "create_dataset no longer has a local 'split'"


def test_loader_sets_transform_and_shows_its_data_set():
    class Items(torch.utils.data.Dataset):
        transform = None

        def __len__(self) -> int:
            return 2

    items = Items()
    loader = create_loader(items, (3, 8, 8), 1, num_workers=0, device=torch.device("cpu"))
    assert items.transform is not None, MOVED + "create_loader no longer sets dataset.transform"
    assert loader.dataset is items, MOVED + "the prefetcher hides the data set from set_epoch"


def test_schedule_of_image_sizes_passes_set_epoch_on():
    assert hasattr(ScheduledTransformDataset, "set_epoch"), MOVED + "set_epoch is not passed on"


def test_message_when_the_table_is_gone(monkeypatch):
    monkeypatch.delattr(dataset_factory, "_TORCH_BASIC_DS")
    with pytest.raises(SignforgeError, match="no longer keeps its torch/ data sets"):
        importlib.reload(signforge_timm)
