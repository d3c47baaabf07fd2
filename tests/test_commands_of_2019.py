"""docs/commands-of-2019.md: its commands run, in its order, and do what it says."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from signforge.config import Config, GanConfig
from signforge.gan.checkpoint import list_checkpoints
from signforge.gan.schedule import learning_rate_factor
from support.cli_runner import Ran, run_cli
from support.commands_of_2019 import PAGE, page_commands, write_pickles

SMALLER = {
    "iterations 14100": "iterations 6",
    "iterations 14900": "iterations 8",
    "batch-size 20": "batch-size 4",
    "kimg 2 ": "kimg 0.008 ",
    "checkpoint_every_kimg=2": "checkpoint_every_kimg=0.008",
    "/0002*kimg": "/000000.0[23]*kimg",
    "decay_from_kimg=100": "decay_from_kimg=0.008",
    "num 20": "num 3",
}
"""Every 100 iterations are every 2 here; of 6 iterations to 0.024 kimg the fourth was good."""
SMALL_GAN = {
    "base_channels": 4,
    "embedding_dim": 4,
    "guide_steps": 2,
    "status_every_kimg": 0.004,
    "probe_classifier": "test_resnet",
    "probe_steps": 2,
}
SMALL = [part for item in SMALL_GAN.items() for part in ("--set", "gan.{}={}".format(*item))]


@dataclass(frozen=True)
class Page:
    """All commands in the order of the page, and the folder in which they ran."""

    place: Path
    ran: list[Ran]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    place = tmp_path_factory.mktemp("here")
    write_pickles(place / "traffic-signs-data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGNFORGE_CACHE", str(place / "cache"))
        patch.chdir(place)
        yield Page(place, list(run_all(place)))


def run_all(place: Path) -> Iterator[Ran]:
    for program, *arguments in page_commands(SMALLER, "signforge", "rm"):
        if program == "rm":
            folders = list(place.glob(arguments[-1]))
            assert len(folders) == 2
            for folder in folders:
                shutil.rmtree(folder)
            continue
        if "train-cgan" in arguments and "--resume" not in arguments:
            arguments += ["--device", "cpu", *SMALL]
        ran = run_cli(*arguments)
        assert ran.code == 0, (arguments, ran.err)
        yield ran


def config(run: Path) -> Config:
    return Config.model_validate(yaml.safe_load((run / "config.yaml").read_text()))


@pytest.mark.slow
def test_the_commands_run(page: Page) -> None:
    assert len(page.ran) == 7
    assert "43" in page.ran[0].out
    assert "Only 1 of 43 classes are used, numbered anew from 0: No entry (17)." in page.ran[1].err


@pytest.mark.slow
def test_the_settings_of_2019_arrive(page: Page) -> None:
    gan = config(page.place / "runs/class17").gan
    assert (gan.z_dim, gan.adam_beta1, gan.discriminator_dropout) == (100, 0.5, 0.4)
    assert gan.generator_learning_rate == gan.discriminator_learning_rate == 1e-4
    assert gan.augment == ("translation", "geometric")
    assert config(page.place / "runs/class17").data.resolution == 32


@pytest.mark.slow
def test_a_good_run_goes_on_with_falling_rates(page: Page) -> None:
    run = page.place / "runs/class17"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["seen_kimg"] for line in lines] == [0.004, 0.008, 0.012, 0.016, 0.02, 0.024]
    rates = [line["generator_learning_rate"] for line in lines]
    assert rates[:4] == [1e-4] * 4
    assert 0 <= rates[5] < rates[4] < 1e-4
    kept = [float(folder.name.removesuffix("kimg")) for folder in list_checkpoints(run)]
    assert kept == [0.0, 0.008, 0.016, 0.024]


def test_the_rate_that_the_page_names() -> None:
    text = PAGE.read_text(encoding="utf-8")
    gan = GanConfig(total_kimg=14.1 * 20, learning_rate_decay_from_kimg=100)
    said = re.search(r"at 198 kimg they are\s+at (\d+) %", text)
    assert said is not None
    assert round(100 * learning_rate_factor(gan, 9.9 * 20)) == int(said[1])


@pytest.mark.slow
@pytest.mark.usefixtures("page")
def test_another_constant_rate_is_refused() -> None:
    again = run_cli("train-cgan", "--resume", "--out", "runs/class17", "--generator-lr", 5e-5)
    assert again.code == 2
    assert "gan.generator_learning_rate" in again.err


@pytest.mark.slow
def test_images_are_where_the_page_says(page: Page) -> None:
    assert len(list((page.place / "runs/class17/samples").glob("*.png"))) > 0
    for name in ("real.png", "film.gif"):
        assert (page.place / "runs/class17" / name).is_file()
    for folder in ("evaluate", "evaluate-all"):
        assert (page.place / "images" / folder / "grid.png").is_file()
        assert len(list((page.place / "images" / folder).glob("*/*.png"))) == 3


@pytest.mark.slow
def test_classes_have_the_numbers_of_gtsrb(page: Page) -> None:
    card = json.loads((page.place / "runs/all/generator.json").read_text())
    assert card["class_names"][17] == "No entry"
    data = ("train-cgan", "--data", "traffic-signs-data", "--out", "runs/none")
    refused = run_cli(*data, "--classes", 43)
    assert refused.code == 2
    assert "There is no class '43': ids are 0..42" in refused.err


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", PAGE.read_text(encoding="utf-8"))
    assert len(targets) >= 4
    assert [target for target in targets if not (PAGE.parent / target).exists()] == []
