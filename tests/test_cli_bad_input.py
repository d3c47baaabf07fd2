"""What the user can mend: one sentence on stderr, exit code 2, no traceback, nothing lost."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from signforge.config import GanConfig
from signforge.gan.sampler import GeneratorCard, build_generator, save_sampler
from support.cli_runner import run_cli

pytestmark = pytest.mark.usefixtures("own_place")

TINY_GAN = GanConfig(
    z_dim=4,
    base_channels=4,
    guide_steps=2,
    probe_every_kimg=None,
    embedding_dim=4,
    batch_size=4,
    total_kimg=0.02,
    device="cpu",
)
PROGRESS = ("Note: ", "Training the GAN in ")
GTSRB_HEADER = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"


def refusal(*args: object, out: str | None = "") -> str:
    """Runs what must be refused and returns the sentence; ``out`` None leaves stdout open."""
    ran = run_cli(*args)
    *before, last = ran.err.strip().splitlines()
    assert ran.code == 2, ran
    assert last.startswith("Error: "), ran.err
    assert all(line.startswith(PROGRESS) for line in before), ran.err
    if out is not None:
        assert ran.out == out
    return last.removeprefix("Error: ")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def save_image(path: Path, seed: int, size: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three class folders, 8 images each."""
    root = tmp_path_factory.mktemp("signs")
    for label, name in enumerate(("give way", "stop", "yield [old]")):
        for index in range(8):
            save_image(root / name / f"{index}.png", 100 * label + index)
    return root


@pytest.fixture
def truncated(tmp_path: Path) -> Path:
    """Class folders of PPM files; b/1.ppm ends in the middle."""
    root = tmp_path / "signs"
    for label, name in enumerate("ab"):
        for index in range(4):
            save_image(root / name / f"{index}.ppm", 10 * label + index)
    broken = root / "b" / "1.ppm"
    broken.write_bytes(broken.read_bytes()[:200])
    return root


@pytest.fixture
def gtsrb(tmp_path: Path) -> Path:
    """GTSRB's official layout with the classes 0 and 1, 3 tracks of 2 frames each."""
    root = tmp_path / "gtsrb"
    for label in range(2):
        folder = root / "GTSRB/Final_Training/Images" / f"{label:05d}"
        lines = [GTSRB_HEADER]
        for index in range(6):
            name = f"{index // 2:05d}_{index % 2:05d}.ppm"
            save_image(folder / name, 10 * label + index)
            lines.append(f"{name};16;16;1;1;15;15;{label}")
        (folder / f"GT-{label:05d}.csv").write_text("\n".join(lines) + "\n")
    return root


def save_generator(run: Path, class_names: tuple[str, ...], fingerprint: str = "other") -> Path:
    """A generator that never trained, as a finished run leaves it."""
    run.mkdir(parents=True)
    torch.manual_seed(0)
    generator = build_generator(TINY_GAN, num_classes=len(class_names), resolution=16)
    card = GeneratorCard(
        gan=TINY_GAN,
        resolution=16,
        class_names=class_names,
        class_counts=(8,) * len(class_names),
        train_fingerprint=fingerprint,
        seen_kimg=0.02,
        seconds=1.0,
        weights_sha256="",
    )
    save_sampler(run, generator, card)
    return run


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory, signs: Path) -> Path:
    names = tuple(sorted(folder.name for folder in signs.iterdir()))
    return save_generator(tmp_path_factory.mktemp("runs") / "cgan", names)


TRAIN = ("train-cgan", "--resolution", 16, "--device", "cpu", "--kimg", 0.02)
TRAIN_SETTINGS = tuple(
    part
    for setting in ("base_channels=4", "batch_size=4", "guide_steps=2", "probe_every_kimg=null")
    for part in ("--set", f"gan.{setting}")
)


def every_reader(source: object, out: Path) -> list[tuple[object, ...]]:
    """The three commands that read a source."""
    return [
        ("data", "inspect", source),
        (*TRAIN, "--data", source, "--out", out),
        ("benchmark", "--data", source, "--resolution", 16, "--out", out),
    ]


# --- sources -------------------------------------------------------------------------------------


@pytest.mark.parametrize("json_output", [(), ("--json",)])
@pytest.mark.parametrize("command", range(3))
def test_a_path_that_does_not_exist(tmp_path: Path, command: int, json_output: tuple) -> None:
    source = tmp_path / "nowhere"
    args = every_reader(source, tmp_path / "run")[command]
    assert f"{source} does not exist" in refusal(*args, *json_output)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", range(3))
def test_an_empty_folder(tmp_path: Path, command: int) -> None:
    source = tmp_path / "empty"
    source.mkdir()
    assert f"{source} is empty" in refusal(*every_reader(source, tmp_path / "run")[command])
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_no_data_set(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt is not a data set" in refusal("data", "inspect", tmp_path / "notes.txt")


@pytest.mark.parametrize("command", range(3))
def test_a_class_folder_with_no_image(tmp_path: Path, command: int) -> None:
    save_image(tmp_path / "signs/full/0.png", 0)
    (tmp_path / "signs/hollow").mkdir()
    sentence = refusal(*every_reader(tmp_path / "signs", tmp_path / "run")[command])
    assert "class folder hollow has no image" in sentence


def test_inspect_reports_around_a_truncated_image(truncated: Path) -> None:
    sentence = refusal("data", "inspect", truncated, out=None)
    assert "b/1.ppm" in sentence
    report = run_cli("data", "inspect", truncated).out
    assert "train: 7 images" in report
    assert "Unreadable files: 1" in report
    assert "b/1.ppm" in report


@pytest.mark.parametrize("command", [1, 2])
def test_nothing_trains_around_a_truncated_image(
    tmp_path: Path, truncated: Path, command: int
) -> None:
    assert "b/1.ppm" in refusal(*every_reader(truncated, tmp_path / "run")[command])
    assert not (tmp_path / "run").exists()


def test_many_truncated_images_are_one_sentence(truncated: Path) -> None:
    for name in ("0.ppm", "2.ppm"):
        (truncated / "b" / name).write_bytes(b"P6\n16 16\n255\n")
    assert "; 2 more files are unreadable, see `signforge data inspect`." in refusal(
        *TRAIN, "--data", truncated
    )


def test_a_csv_that_names_a_missing_file(gtsrb: Path) -> None:
    table = gtsrb / "GTSRB/Final_Training/Images/00000/GT-00000.csv"
    table.write_text(table.read_text() + "00009_00000.ppm;16;16;1;1;15;15;0\n")
    sentence = refusal("data", "inspect", gtsrb)
    assert "GT-00000.csv, 00009_00000.ppm: the file is missing" in sentence


@pytest.mark.parametrize("label", ["43", "-1", "seven", ""])
def test_a_label_outside_the_classes_in_a_csv(gtsrb: Path, label: str) -> None:
    table = gtsrb / "GTSRB/Final_Training/Images/00001/GT-00001.csv"
    lines = table.read_text().splitlines()
    lines[3] = f"{lines[3].rpartition(';')[0]};{label}"
    table.write_text("\n".join(lines) + "\n")
    sentence = refusal("data", "inspect", gtsrb)
    assert "GT-00001.csv, 00001_00000.ppm" in sentence
    assert f"ClassId {label!r}, outside 0..42" in sentence


def test_a_gtsrb_folder_outside_the_classes(gtsrb: Path) -> None:
    images = gtsrb / "GTSRB/Final_Training/Images"
    (images / "00001").rename(images / "00043")
    assert "00043 is outside 0..42" in refusal("data", "inspect", gtsrb)


def pickled(labels: list[int]) -> bytes:
    features = np.random.default_rng(0).integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8)
    return pickle.dumps({"features": features, "labels": np.array(labels)}, protocol=4)


@pytest.mark.parametrize("label", [43, -1])
def test_a_label_outside_the_classes_in_a_pickle(tmp_path: Path, label: int) -> None:
    (tmp_path / "train.p").write_bytes(pickled([0, 42, label]))
    sentence = refusal("data", "inspect", tmp_path)
    assert f"labels[2] is {label}, outside 0..42" in sentence


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
@pytest.mark.parametrize("command", range(3))
def test_a_truncated_pickle(tmp_path: Path, command: int, share: float) -> None:
    whole = pickled([0, 1, 2] * 10)
    file = tmp_path / "train.p"
    file.write_bytes(whole[: int(share * len(whole))])
    sentence = refusal(*every_reader(file, tmp_path / "run")[command])
    assert "train.p" in sentence
    assert not (tmp_path / "run").exists()


class Malice:
    def __init__(self, call: Callable[..., object], argument: str) -> None:
        self.call, self.argument = call, argument

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return self.call, (self.argument,)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("call", [os.system, eval, exec], ids=lambda call: call.__name__)
def test_a_pickle_that_runs_code(
    tmp_path: Path, call: Callable[..., object], protocol: int
) -> None:
    sentinel = tmp_path / "sentinel"
    argument = f"touch {sentinel}" if call is os.system else f"open({str(sentinel)!r}, 'w').close()"
    content = {"features": Malice(call, argument), "labels": np.zeros(3, dtype=np.uint8)}
    file = tmp_path / "train.p"
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    assert "train.p" in refusal("data", "inspect", file)
    assert not sentinel.exists()
    pickle.loads(file.read_bytes())  # the same bytes do harm to a reader that trusts them
    assert sentinel.exists()


def test_too_few_images_to_cut_from(tmp_path: Path) -> None:
    for name in "ab":
        for index in range(2):
            save_image(tmp_path / "signs" / name / f"{index}.png", index)
    sentence = refusal(*TRAIN, "--data", tmp_path / "signs", "--out", tmp_path / "run")
    assert "too few" in sentence
    assert not (tmp_path / "run").exists()


def test_roi_without_regions(signs: Path) -> None:
    sentence = refusal("data", "inspect", signs, "--crop", "roi")
    assert "no region of interest" in sentence


@pytest.mark.parametrize("command", range(3))
def test_no_download_of_the_demo(tmp_path: Path, command: int) -> None:
    args = every_reader("demo", tmp_path / "run")[command]
    assert "--download needs a folder" in refusal(*args, "--download")


# --- config --------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train-cgan", "benchmark"])
@pytest.mark.parametrize(
    ("text", "closest"),
    [
        ("gan:\n  base_chanels: 4\n", "did you mean gan.base_channels?"),
        ("gann:\n  seed: 1\n", "did you mean gan?"),
        ("gan:\n  zzz: 1\n", "known keys: z_dim"),
    ],
)
def test_an_unknown_key_in_a_config_file(
    tmp_path: Path, command: str, text: str, closest: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    sentence = refusal(command, "--config", file, "--out", tmp_path / "run")
    assert str(file) in sentence
    assert closest in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train-cgan", "benchmark"])
@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("gan.sed=1", "did you mean gan.seed?"),
        ("benchmrk.seeds=1", "did you mean benchmark?"),
        ("gan.seed", "write section.key=value"),
        ("gan.seed=[1", "is not a YAML value"),
        ("gan.seed=one", "gan.seed = 'one' is not valid"),
        ("data.crop=half", "data.crop = 'half' is not valid"),
        ("gan=1", "gan"),
        ("gan.total_kimg=-1", "gan.total_kimg = -1 is not valid"),
    ],
)
def test_a_bad_setting(tmp_path: Path, command: str, setting: str, says: str) -> None:
    assert says in refusal(command, "--set", setting, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [None, b"gan: [", b"\xff\xfe\x00", b"- a list\n", b"gan: 3\n"])
def test_a_config_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_bytes(content)
    assert "mine.yaml" in refusal("train-cgan", "--config", file)


@pytest.mark.parametrize("command", range(3))
def test_a_bad_crop(tmp_path: Path, command: int) -> None:
    args = every_reader("demo", tmp_path / "run")[command]
    sentence = refusal(*args, "--crop", "half")
    assert "data.crop = 'half' is not valid" in sentence
    assert "'full'" in sentence
    assert "'roi'" in sentence


# --- train-cgan ----------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [12, 24, 100])
def test_the_gan_needs_a_power_of_two(tmp_path: Path, signs: Path, resolution: int) -> None:
    args = ("--data", signs, "--out", tmp_path / "run", "--resolution", resolution)
    assert f"not {resolution}" in refusal("train-cgan", *args)
    assert not (tmp_path / "run").exists()


def test_an_unknown_device(tmp_path: Path, signs: Path) -> None:
    args = (*TRAIN, "--data", signs, "--out", tmp_path / "run", "--device", "abacus")
    assert "Unknown device 'abacus'" in refusal(*args)
    assert not (tmp_path / "run").exists()


def test_a_run_is_never_overwritten(signs: Path, generator: Path) -> None:
    before = tree(generator)
    sentence = refusal(*TRAIN, *TRAIN_SETTINGS, "--data", signs, "--out", generator)
    assert sentence == f"{generator} already holds a generator; use another --out."
    assert tree(generator) == before


@pytest.mark.parametrize("exists", [False, True])
def test_nothing_to_resume(tmp_path: Path, signs: Path, exists: bool) -> None:
    run = tmp_path / "run"
    if exists:
        run.mkdir()
    sentence = refusal(*TRAIN, "--data", signs, "--out", run, "--resume")
    assert sentence == f"{run} holds no training run to resume; start without --resume."
    assert run.exists() == exists


# --- generate ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("stpo", "did you mean 'stop'?"),
        ("3", "ids are 0..2"),
        ("-1", "ids are 0..2"),
        ("elephant", "ids are 0..2"),
    ],
)
def test_a_class_that_does_not_exist(generator: Path, wanted: str, says: str) -> None:
    before = tree(generator)
    sentence = refusal("generate", generator, f"--class={wanted}", "--class=stop", "--num", 1)
    assert f"There is no class {wanted!r}" in sentence
    assert says in sentence
    assert tree(generator) == before


def test_generate_more_than_fits(generator: Path, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    said = refusal("generate", generator, "--num", 10**15, "--out", out)
    assert said == "The memory is too small for this; draw fewer images at a time with --num."
    assert not out.exists()


def test_generate_from_a_folder_that_is_no_run(tmp_path: Path) -> None:
    assert "holds no generator.json" in refusal("generate", tmp_path)
    assert "holds no generator.json" in refusal("generate", tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["generator.json", "generator.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_generate_from_a_damaged_run(tmp_path: Path, file: str, share: float) -> None:
    run = save_generator(tmp_path / "run", ("a", "b"))
    content = (run / file).read_bytes()
    (run / file).write_bytes(content[: int(share * len(content))])
    assert file in refusal("generate", run)
    assert not (run / "generated").exists()


# --- benchmark -----------------------------------------------------------------------------------

QUICK = ("--resolution", 16, "--steps", 1, "--seeds", 1, "--device", "cpu", "--kimg", 0.02)


def benchmark(signs: Path, out: Path, *args: object) -> tuple[object, ...]:
    quick = (*QUICK, *TRAIN_SETTINGS, "--classifier", "test_resnet")
    return ("benchmark", "--data", signs, "--out", out, *quick, *args)


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
@pytest.mark.parametrize("arms", ["real,sinthetic", "synthetic,oversampel", "real,,synthetic"])
def test_an_unknown_arm(tmp_path: Path, signs: Path, arms: str, dry_run: tuple) -> None:
    sentence = refusal(*benchmark(signs, tmp_path / "run", "--arms", arms, *dry_run))
    assert "Unknown arm" in sentence
    assert "the arms are real, oversample" in sentence
    assert not (tmp_path / "run").exists()  # above all, no GAN was trained first


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_an_unknown_classifier(tmp_path: Path, signs: Path, dry_run: tuple) -> None:
    args = benchmark(signs, tmp_path / "run", "--classifier", "resnet18x", *dry_run)
    sentence = refusal(*args)
    assert "Unknown classifier 'resnet18x'" in sentence
    assert "did you mean resnet18" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arms", ["real", "synthetic"])
def test_an_unknown_device_of_the_classifier(tmp_path: Path, signs: Path, arms: str) -> None:
    args = benchmark(signs, tmp_path / "run", "--arms", arms, "--device", "abacus")
    assert "Unknown device 'abacus'" in refusal(*args)


def test_a_generator_folder_that_is_no_run(tmp_path: Path, signs: Path) -> None:
    args = benchmark(signs, tmp_path / "run", "--generator", signs)
    assert f"{signs} holds no generator.json" in refusal(*args)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_a_generator_trained_on_other_images(
    tmp_path: Path, signs: Path, generator: Path, dry_run: tuple
) -> None:
    args = benchmark(signs, tmp_path / "run", "--generator", generator, *dry_run)
    assert "was trained on other images than this training split" in refusal(*args)
    assert not (tmp_path / "run").exists()


def test_a_generator_of_other_classes(tmp_path: Path, signs: Path) -> None:
    other = save_generator(tmp_path / "cgan", ("a", "b"))
    args = benchmark(signs, tmp_path / "run", "--generator", other)
    assert "draws 2 classes, the data have 3" in refusal(*args)


def test_a_generator_of_another_size(tmp_path: Path, signs: Path, generator: Path) -> None:
    args = benchmark(signs, tmp_path / "run", "--generator", generator, "--resolution", 32)
    assert "draws 16x16 images, the data are 32x32" in refusal(*args)


# --- where results go ----------------------------------------------------------------------------


def writers(signs: Path, generator: Path, out: Path) -> dict[str, tuple[object, ...]]:
    return {
        "inspect": ("data", "inspect", signs, "--out", out),
        "train-cgan": (*TRAIN, *TRAIN_SETTINGS, "--data", signs, "--out", out),
        "generate": ("generate", generator, "--num", 1, "--out", out),
        "benchmark": benchmark(signs, out),
        "benchmark-real": benchmark(signs, out, "--arms", "real"),
        "dry-run": benchmark(signs, out, "--dry-run"),
    }


COMMANDS = ["inspect", "train-cgan", "generate", "benchmark", "benchmark-real", "dry-run"]


@pytest.mark.parametrize("below", ["", "deeper/run"])
@pytest.mark.parametrize("command", COMMANDS)
def test_out_is_a_file(
    tmp_path: Path, signs: Path, generator: Path, command: str, below: str
) -> None:
    file = tmp_path / "taken"
    file.write_text("mine")
    sentence = refusal(*writers(signs, generator, file / below)[command])
    assert f"{file} is a file" in sentence
    assert file.read_text() == "mine"


@pytest.mark.parametrize("command", COMMANDS)
def test_out_is_not_writable(
    tmp_path: Path, signs: Path, generator: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    allowed = os.access  # a stand-in, for root may write everywhere
    monkeypatch.setattr(os, "access", lambda p, mode: Path(p) != locked and allowed(p, mode))
    sentence = refusal(*writers(signs, generator, locked / "run")[command])
    assert f"{locked} is not writable" in sentence


@pytest.mark.parametrize("command", ["inspect", "train-cgan", "generate", "benchmark-real"])
def test_the_system_refuses_to_write(
    tmp_path: Path, signs: Path, generator: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What only shows when writing, such as a read-only or full file system."""
    locked = tmp_path / "locked"

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(path))

    run = writers(signs, generator, locked)[command]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        sentence = refusal(*run)
    assert str(locked) in sentence
    assert "Read-only file system" in sentence
