"""``signforge push``: to a folder, to a stand-in Hub, and what it refuses."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from signforge.config import GanConfig
from signforge.gan.sampler import GeneratorCard, build_generator, load_sampler, save_sampler
from support.cli_runner import run_cli
from support.hub_server import OWNER, TOKEN, running_hub

NAMES = ("generator.json", "generator.safetensors", "README.md")
LICENSE = ("--license", "cc-by-4.0")
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def run(tmp_path) -> Path:
    config = GanConfig(z_dim=4, base_channels=4, embedding_dim=4)
    card = GeneratorCard(
        gan=config,
        resolution=8,
        class_names=("stop", "yield"),
        class_counts=(9, 3),
        train_fingerprint="ab" * 32,
        seen_kimg=1.0,
        seconds=2.0,
        weights_sha256="",
    )
    save_sampler(tmp_path / "run", build_generator(config, num_classes=2, resolution=8), card)
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    return tmp_path / "run"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with running_hub() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def test_to_a_folder(run, tmp_path):
    out = tmp_path / "out"
    result = run_cli(
        "push", run, *LICENSE, "--out", out, "--data-name", "My signs", "--json"
    ).json()
    assert result["folder"] == str(out)
    assert (result["repository"], result["commit"]) == (None, None)
    assert result["files"] == {name: (out / name).stat().st_size for name in NAMES}
    assert "DCGAN of My signs" in (out / "README.md").read_text(encoding="utf-8")
    labels = torch.tensor([0, 1])
    pair = [load_sampler(folder, "cpu").sample(labels, 3) for folder in (run, out)]
    assert torch.equal(*pair)


def test_to_the_hub_and_a_folder(run, hub, tmp_path):
    ran = run_cli("push", run, *LICENSE, "--to", f"{OWNER}/signs", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    repository = hub.repositories[f"{OWNER}/signs"]
    assert not repository.private
    assert f"load_sampler('hf://{OWNER}/signs@{repository.head}')" in ran.out
    stored = repository.commits[repository.head]
    assert stored == {name: (tmp_path / "out" / name).read_bytes() for name in NAMES}
    assert f'load_sampler("hf://{OWNER}/signs")'.encode() in stored["README.md"]
    assert not any("metrics" in path for _, path in hub.requests)
    before = repository.head
    again = run_cli("push", run, *LICENSE, "--to", f"{OWNER}/signs", "--data-name", "x", "--json")
    assert again.json()["commit"] == repository.head != before


def test_a_new_repository_may_be_private(run, hub):
    assert run_cli("push", run, *LICENSE, "--to", f"{OWNER}/signs", "--private").code == 0
    assert hub.repositories[f"{OWNER}/signs"].private


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (LICENSE, "Give --to OWNER/NAME, --out FOLDER, or both."),
        ((*LICENSE, "--to", "signs"), "is not OWNER/NAME"),
        (("--license", "CC BY", "--out", "x"), "no licence identifier"),
        (("--license", "other", "--out", "x"), "which needs both"),
        ((*LICENSE, "--out", "x", "--fidelity", "none.json"), "does not exist"),
        (("--out", "x"), "Missing option '--license'"),
    ],
)
def test_what_it_refuses(run, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    ran = run_cli("push", run, *arguments)
    assert ran.code == 2
    assert said in ran.err
    assert ran.out == ""
    assert not Path("x").exists()


def test_a_folder_that_is_no_run(tmp_path):
    ran = run_cli("push", tmp_path, *LICENSE, "--out", tmp_path / "out")
    assert ran.code == 2
    assert "holds no generator.json" in ran.err


def test_the_result_is_json(run, tmp_path):
    ran = run_cli("push", run, *LICENSE, "--out", tmp_path / "out", "--json")
    assert set(json.loads(ran.out)) == {"folder", "repository", "commit", "files"}


def test_what_the_page_shows_runs(run, hub):
    page = (Path(__file__).parents[2] / "docs" / "hub.md").read_text(encoding="utf-8")
    command = re.search(r"^signforge (push .*)$", page, re.MULTILINE)
    assert command
    ours = {"runs/gan": str(run), "OWNER/NAME": f"{OWNER}/signs"}
    ran = run_cli(*(ours.get(word, word) for word in shlex.split(command[1])))
    assert ran.code == 0, ran.err
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    variables: dict[str, object] = {}
    exec(compile(code.replace("OWNER/NAME", f"{OWNER}/signs"), "hub.md", "exec"), variables)
    images = variables["images"]
    assert isinstance(images, torch.Tensor)
    assert images.shape == (4, 3, 8, 8)
    assert len(hub.served()) == 2
    options = set(re.findall(r"`(--[a-z-]+)", page.split("## From there")[0]))
    helped = run_cli("push", "--help").out
    assert {option for option in options if option not in helped} == set()


@pytest.mark.slow
def test_generate_takes_an_address(run, hub, tmp_path):
    assert run_cli("push", run, *LICENSE, "--to", f"{OWNER}/signs").code == 0
    out = tmp_path / "images"
    address = f"hf://{OWNER}/signs@{hub.repositories[f'{OWNER}/signs'].head}"
    ran = run_cli("generate", address, "--num", 2, "--out", out, "--device", "cpu")
    assert ran.code == 0, ran.err
    assert len(list(out.rglob("*.png"))) >= 4


def test_images_of_an_address_need_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = run_cli("generate", f"hf://{OWNER}/signs", "--num", 2)
    assert ran.code == 2
    assert f"hf:/{OWNER}/signs is not a folder here: say with --out" in ran.err.replace("\n", " ")
    assert not list(tmp_path.iterdir())
