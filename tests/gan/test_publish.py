"""A run as a Hub folder: exactly three files, and nothing said that is not so."""

import json
import re
from pathlib import Path

import pytest
import torch

from signforge.errors import SignforgeError
from signforge.gan.model_card import Licence
from signforge.gan.publish import hub_files, write_hub_folder
from signforge.gan.sampler import load_sampler, save_sampler

LICENCE = Licence("cc-by-4.0")
NAMES = {"generator.json", "generator.safetensors", "README.md"}
TRAIN = "ab" * 32


@pytest.fixture
def run(make_sampler, tmp_path) -> Path:
    """A run directory as training leaves it, with much that is not to be published."""
    run = tmp_path / "run"
    sampler = make_sampler()
    save_sampler(run, sampler.generator, sampler.card)
    splits = {
        name: {"images": n, "class_counts": [], "fingerprint": fingerprint}
        for name, n, fingerprint in (("train", 18, TRAIN), ("val", 7, "v"), ("test", 9, "t"))
    }
    dataset = {"source": "/home/someone/secret/street-signs", "class_names": [], "splits": splits}
    dataset["notes"] = ["Decoded images are not kept: /home/someone/cache cannot be written."]
    (run / "dataset.json").write_text(json.dumps(dataset))
    environment = {
        "versions": {"python": "3.11", "timm": None},
        "hardware": {"cpu": "A CPU", "cores": 2, "gpu": None},
        "commit": None,
        "dirty": None,
        "command": "signforge train-cgan --data /home/someone/secret",
    }
    (run / "environment.json").write_text(json.dumps(environment))
    lines = [{"seen_kimg": 1.0, "fd": 9.0}, {"seen_kimg": 1.5, "fd": 5.0, "label_agreement": 0.75}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for secret in ("real.png", "samples.png", "config.yaml", "checkpoints/1kimg/state.safetensors"):
        (run / secret).parent.mkdir(parents=True, exist_ok=True)
        (run / secret).write_bytes(b"not to be published")
    return run


def write_fidelity(path: Path, **changes: object) -> Path:
    values = {
        "metric_name": "fd_x_7",
        "n": 7,
        "fd": 2.0,
        "fd_floor": 1.0,
        "fd_ratio": 2.0,
        "kid": 0.002,
        "kid_floor": 0.001,
        "macro_label_agreement": 0.8,
        "real_label_agreement": 0.9,
        "worst_class_label_agreement": 0.5,
        "per_class_label_agreement": [0.5, 0.9, 1.0],
        "extractor": "x",
        "extractor_sha256": "e" * 64,
        "a_metric_to_come": [1, 2],
    }
    path.write_text(json.dumps(values | changes))
    return path


def card_of(run: Path, **options: object) -> str:
    return hub_files(run, LICENCE, "hf://me/signs", **options)["README.md"].decode()


def test_exactly_three_files_and_the_generator_as_it_is(run):
    files = hub_files(run, LICENCE, "hf://me/signs")
    assert set(files) == NAMES
    for name in ("generator.json", "generator.safetensors"):
        assert files[name] == (run / name).read_bytes()
    assert not any(b"not to be published" in content for content in files.values())


def test_the_folder_is_a_generator_and_its_example_runs(run, tmp_path):
    folder = tmp_path / "out"
    write_hub_folder(folder, hub_files(run, LICENCE, "hf://me/signs"))
    assert {path.name for path in folder.iterdir()} == NAMES
    text = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(code.strip().splitlines()) == 5
    assert '"hf://me/signs"' in code
    variables: dict[str, object] = {}
    exec(compile(code.replace("hf://me/signs", str(folder)), "README.md", "exec"), variables)
    images = variables["images"]
    assert isinstance(images, torch.Tensor)
    assert (images.dtype, images.shape) == (torch.uint8, (4, 3, 8, 8))
    assert f"uint8 {tuple(images.shape)}" in code


def test_a_folder_of_its_own_may_be_written_again(run, tmp_path):
    files = hub_files(run, LICENCE, "x")
    write_hub_folder(tmp_path / "out", files)
    write_hub_folder(tmp_path / "out", {**files, "README.md": b"newer"})
    assert (tmp_path / "out" / "README.md").read_bytes() == b"newer"


def test_a_folder_with_other_files_is_refused(run):
    files = hub_files(run, LICENCE, "x")
    with pytest.raises(SignforgeError, match=r"holds other files \(checkpoints\)"):
        write_hub_folder(run, files)
    assert not (run / "README.md").exists()


def test_nothing_says_where_the_images_lie(run):
    text = card_of(run)
    assert "DCGAN of street-signs" in text
    assert "someone" not in text
    assert "secret" not in text
    assert "DCGAN of German signs" in card_of(run, data_name="German signs")


@pytest.mark.parametrize(
    ("source", "name"),
    [("demo", "demo (signs drawn"), ("C:\\x\\signs", "signs"), ("/", "unnamed images")],
)
def test_the_name_of_the_data(run, source, name):
    path = run / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "source": source}))
    assert f"DCGAN of {name}" in card_of(run)


def test_figures_of_this_very_generator_are_shown(run, tmp_path):
    fingerprint = load_sampler(run, "cpu").fingerprint
    text = card_of(run)
    assert "| Frechet distance to the validation images | 5.000 |" in text
    assert "| label agreement, mean over classes % | 75.0 |" in text
    assert "real against real" not in text
    fidelity = write_fidelity(tmp_path / "fidelity.json", sampler_fingerprint=fingerprint)
    assert "| fd&#95;x&#95;7 | 2.000 | 1.000 |" in card_of(run, fidelity=fidelity)
    fidelity.rename(run / "fidelity.json")
    assert "| fd&#95;x&#95;7 | 2.000 | 1.000 |" in card_of(run)


def test_figures_of_another_generator_are_refused(run, tmp_path):
    path = write_fidelity(tmp_path / "fidelity.json", sampler_fingerprint="0" * 64)
    with pytest.raises(SignforgeError, match=r"measured with another generator \(000000000000"):
        card_of(run, fidelity=path)


def test_a_bare_generator_has_a_card(run, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("generator.json", "generator.safetensors"):
        (bare / name).write_bytes((run / name).read_bytes())
    text = card_of(bare)
    assert "DCGAN of unnamed images" in text
    assert "Not measured." in text
    assert "| hardware and versions | not recorded |" in text


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("dataset.json", "[]", "dataset.json cannot be read"),
        ("dataset.json", "{", "dataset.json cannot be read"),
        ("dataset.json", '{"splits": {}}', "dataset.json cannot be read"),
        ("environment.json", '{"hardware": 1}', "environment.json cannot be read"),
        ("metrics.jsonl", "nonsense", "metrics.jsonl cannot be read"),
        ("fidelity.json", '{"n": "many"}', "fidelity.json cannot be read"),
        ("generator.json", "{}", "generator.json or its weights cannot be read"),
    ],
)
def test_a_damaged_file_is_one_sentence(run, name, text, said):
    (run / name).write_text(text)
    with pytest.raises(SignforgeError, match=said) as error:
        card_of(run)
    assert "\n" not in str(error.value)


def test_files_of_different_trainings_are_refused(run):
    path = run / "dataset.json"
    path.write_text(path.read_text().replace(TRAIN, "cd" * 32))
    with pytest.raises(SignforgeError, match="describes other images"):
        card_of(run)


def test_a_fidelity_file_that_is_not_there_is_named(run, tmp_path):
    with pytest.raises(SignforgeError, match=r"--fidelity .*none\.json does not exist"):
        card_of(run, fidelity=tmp_path / "none.json")
