"""Plugins of real distributions: folders on sys.path with the metadata that pip would write."""

import json
import sys
from pathlib import Path

import pytest
import torch

from signforge.config import DataConfig
from signforge.data.load import load_splits
from signforge.errors import SignforgeError
from signforge.gan.open_sampler import open_sampler
from signforge.plugins import installed_plugins, load_plugin, parse_plugin_address
from signforge.testing import check_executor, check_reader, check_sampler
from support.cli_runner import run_cli

CODE = """
import torch
from signforge import LabeledImages


class Colours:
    class_names = ("dark", "light")
    num_classes = 2
    resolution = 8

    def __init__(self, argument):
        self.fingerprint = "colours " + argument

    def sample(self, labels, seed):
        if bool(((labels < 0) | (labels > 1)).any()):
            raise IndexError("no such class")
        rng = torch.Generator().manual_seed(seed)
        noise = torch.randint(0, 100, (len(labels), 3, 8, 8), generator=rng)
        return (noise + 100 * labels.view(-1, 1, 1, 1)).to(torch.uint8)


def read(argument):
    labels = torch.arange(2).repeat(int(argument))
    images = Colours("").sample(labels, 0)
    names = tuple(map(str, range(len(labels))))
    groups = torch.arange(len(labels))
    train = LabeledImages(images, labels, groups, ("dark", "light"), names, "mine")
    return {"train": train}


def backwards(jobs, work):
    for job in reversed(jobs):
        yield work(job)


def no_sampler(argument):
    return argument


number = 7
"""
ENTRY_POINTS = """
[signforge.executors]
backwards = {module}:backwards
number = {module}:number
gone = {module}:gone

[signforge.samplers]
colours = {module}:Colours
none = {module}:no_sampler

[signforge.readers]
mine = {module}:read
"""


def install(
    folder: Path, distribution: str, module: str, code: str, entry_points: str = ENTRY_POINTS
) -> None:
    """What pip leaves behind of a distribution with one module."""
    metadata = folder / f"{module}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(entry_points.format(module=module))
    (folder / f"{module}.py").write_text(code)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path with one distribution, ``my-signs``."""
    install(tmp_path, "my-signs", "my_signs_plugin", CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_signs_plugin", raising=False)
    return tmp_path


@pytest.mark.usefixtures("site")
def test_plugins_are_listed_without_an_import() -> None:
    listed = run_cli("plugins", "--json").json()
    mine = {(p["kind"], p["name"]) for p in listed if p["distribution"] == "my-signs"}
    assert mine == {
        ("executor", "backwards"),
        ("executor", "number"),
        ("executor", "gone"),
        ("sampler", "colours"),
        ("sampler", "none"),
        ("reader", "mine"),
    }
    assert "my_signs_plugin" not in sys.modules
    table = run_cli("plugins")
    assert table.code == 0
    assert "my_signs_plugin:Colours" in table.out


@pytest.mark.usefixtures("site")
def test_what_is_loaded_keeps_the_contracts() -> None:
    check_executor(load_plugin("executor", "backwards"))
    check_reader(load_plugin("reader", "mine"), "3")
    check_sampler(open_sampler("plugin:colours:a:b"))
    assert open_sampler("plugin:colours:a:b").fingerprint == "colours a:b"


@pytest.mark.usefixtures("site")
def test_a_reader_is_a_source() -> None:
    splits = load_splits(DataConfig(source="plugin:mine:5", resolution=8))
    assert splits.train.class_counts.tolist() == [5, 5]
    assert splits.test is None
    assert torch.equal(splits.train.images, load_plugin("reader", "mine")("5")["train"].images)


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("kind", "name", "sentence"),
    [
        ("executor", "backward", "There is no executor 'backward'; did you mean 'backwards'?"),
        ("executor", "zzzz", r"There is no executor 'zzzz'; installed: backwards, gone, number"),
        ("executor", "number", "'number' of my-signs 1.0 is a int, which cannot be called"),
        ("executor", "gone", r"'gone' of my-signs 1.0 cannot be imported \(AttributeError"),
    ],
)
def test_one_sentence_for_each_name_that_gives_nothing(kind, name, sentence) -> None:
    with pytest.raises(SignforgeError, match=sentence):
        load_plugin(kind, name)


@pytest.mark.usefixtures("site")
def test_factories_that_fail_or_return_something_else() -> None:
    with pytest.raises(SignforgeError, match=r"reader 'mine' fails on 'many' \(ValueError: "):
        load_splits(DataConfig(source="plugin:mine:many", resolution=8))
    with pytest.raises(SignforgeError, match=r"gives no images|returns no images in train"):
        load_splits(DataConfig(source="plugin:mine:0", resolution=8))
    with pytest.raises(SignforgeError, match=r"8x8 images.*set data\.resolution=8"):
        load_splits(DataConfig(source="plugin:mine:5"))
    with pytest.raises(SignforgeError, match="sampler 'none' returns a str, which lacks members"):
        open_sampler("plugin:none:x")


def test_a_name_given_twice_is_an_error_that_names_both(site: Path) -> None:
    install(site / "more", "your-signs", "your_signs_plugin", CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site / "more")
        assert len([p for p in installed_plugins("reader") if p.name == "mine"]) == 2
        with pytest.raises(
            SignforgeError,
            match="The reader 'mine' is given by my-signs and by your-signs; uninstall all but one",
        ):
            load_plugin("reader", "mine")
        ran = run_cli("plugins", "--json")
    assert ran.code == 2
    assert "is given by my-signs and by your-signs" in ran.err
    assert {p["distribution"] for p in json.loads(ran.out)} >= {"my-signs", "your-signs"}


def test_a_plugin_that_cannot_be_imported_is_named(site: Path) -> None:
    code = "import a_framework_that_is_not_here"
    points = "[signforge.executors]\nbroken = {module}:run\n"
    install(site / "more", "broken-signs", "broken_signs_plugin", code, points)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site / "more")
        ran = run_cli("benchmark", "--executor", "broken", "--out", site / "run")
        assert "broken_signs_plugin" not in run_cli("plugins").err
    assert ran.code == 2
    assert ran.err == (
        "Error: The executor 'broken' of broken-signs 1.0 cannot be imported (ModuleNotFoundError: "
        "No module named 'a_framework_that_is_not_here'); mend or uninstall broken-signs.\n"
    )


def test_addresses() -> None:
    assert parse_plugin_address("plugin:a:b:c") == ("a", "b:c")
    assert parse_plugin_address("plugin:a") == ("a", "")
    assert parse_plugin_address("runs/plugin:a") is None
