import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from signforge.balance.lighting import BorrowedLight
from signforge.config_file import dump_config
from signforge.data.prepare import load_prepared_splits
from signforge.data.splits import PreparedSplits
from signforge.errors import SignforgeError
from support.tiny_runs import load_script, tiny_config

SMALL = [
    "--tracks", "1,2", "--classes", "2", "--min-tracks", "6", "--repeats", "2",
    "--ball-neighbours", "2", "--judge-classifier", "test_resnet", "--judge-steps", "8",
]  # fmt: skip


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("gan_variation")


@pytest.fixture(scope="module")
def splits() -> PreparedSplits:
    return load_prepared_splits(tiny_config().data)


@pytest.fixture(scope="module")
def tiny_config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(dump_config(tiny_config()))
    return path


@pytest.fixture(scope="module")
def out(
    script: ModuleType, tiny_config_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("variation")
    script.main(["--data", "demo", "--config", str(tiny_config_file), "--out", str(folder), *SMALL])
    return folder


def read_rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]


def test_parts_share_no_track(script: ModuleType, splits: PreparedSplits) -> None:
    everything = script.join(splits.train, splits.val)
    chosen = script.choose_classes(everything, classes=3, min_tracks=7)
    tracks = {
        c: set(everything.groups[everything.labels == c].tolist())
        for c in range(everything.num_classes)
    }
    fewest = min(len(groups) for groups in tracks.values() if len(groups) >= 7)
    assert all(len(tracks[c]) >= 7 for c in chosen)
    assert min(len(tracks[c]) for c in chosen) == fewest
    parts = script.cut(splits, chosen, 3, seed=0)
    for label in chosen:
        groups = [
            set(part.groups[part.labels == label].tolist())
            for part in (parts.pool, parts.ceiling, parts.reference)
        ]
        assert len(groups[0]) == 3
        assert len(groups[1]) == (len(tracks[label]) - 3) // 2
        assert sum(map(len, groups)) == len(set.union(*groups)) == len(tracks[label])
    assert not set(parts.others.labels.tolist()) & set(chosen)
    assert len(parts.others) == sum(
        int(splits.train.class_counts[c]) for c in range(43) if c not in chosen
    )
    with pytest.raises(SignforgeError, match="a class needs 2 more"):
        script.cut(splits, chosen, fewest - 1, seed=0)


def test_every_source_is_measured_on_as_many_images(out: Path, script: ModuleType) -> None:
    rows = read_rows(out)
    assert [(row["tracks"], row["source"]) for row in rows] == [
        (tracks, source) for tracks in (1, 2) for source in script.SOURCES
    ]
    for row in rows:
        assert list(row["per_class"]) == row["classes"]
        for name, values in row["per_class"].items():
            assert values["n"] == rows[0]["per_class"][name]["n"] == 3
        for name in script.MEASURES:
            mean = sum(values[name] for values in row["per_class"].values()) / 2
            assert row[name] == pytest.approx(mean)
    by_source = {(row["tracks"], row["source"]): row for row in rows}
    for tracks in (1, 2):
        assert by_source[tracks, "ceiling"]["reach"] == pytest.approx(1)
        # A GAN of four steps draws noise, which is farther off than any real image.
        assert by_source[tracks, "gan"]["reach"] > by_source[tracks, "kept"]["reach"]
    assert by_source[1, "ceiling"]["reference_fingerprint"] == rows[-1]["reference_fingerprint"]
    assert (out / "table.md").read_text() == script.variation_table(rows)


def test_gans_and_judge_are_used_again(
    script: ModuleType, out: Path, tiny_config_file: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    rows = read_rows(out)
    arguments = ["--data", "demo", "--config", str(tiny_config_file), "--out", str(out), *SMALL]
    script.main(arguments)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before
    again = read_rows(out)[len(rows) :]
    varying = {"finished_at"}
    for first, second in zip(rows, again, strict=True):
        assert {k: v for k, v in first.items() if k not in varying} == {
            k: v for k, v in second.items() if k not in varying
        }
    with pytest.raises(SignforgeError, match="other settings or images"):
        script.main([*arguments, "--kimg", "0.016"])


def test_judge_never_saw_the_chosen_classes(out: Path, splits: PreparedSplits) -> None:
    chosen = [splits.train.class_names.index(name) for name in read_rows(out)[0]["classes"]]
    rest = ~torch.isin(splits.train.labels, torch.tensor(chosen))
    others = splits.train.subset(rest.nonzero().flatten())
    card = json.loads((out / "judge" / "extractor.json").read_text())
    assert card["train_fingerprint"] == others.fingerprint


@pytest.mark.parametrize("policy", ["basic", "randaugment"])
def test_augmentation_gives_other_images_of_the_same_kind(
    script: ModuleType, splits: PreparedSplits, policy: str
) -> None:
    images = splits.train.images[:20]
    changed = script.augmented(images, policy, 3)
    assert changed.dtype == torch.uint8
    assert changed.shape == images.shape
    assert torch.equal(changed, script.augmented(images, policy, 3))
    assert not torch.equal(changed, script.augmented(images, policy, 4))
    moved = (changed.float() - images.float()).abs().mean(dim=(1, 2, 3))
    assert 1 < float(moved.median()) < 80


def test_some_of_the_tracks_are_measured_on_the_cut_of_all(
    script: ModuleType, out: Path, tiny_config_file: Path
) -> None:
    rows = read_rows(out)
    arguments = ["--data", "demo", "--config", str(tiny_config_file), "--out", str(out), *SMALL]
    script.main([*arguments, "--only", "2"])
    again = read_rows(out)[len(rows) :]
    assert {row["tracks"] for row in again} == {2}
    of_two = [row for row in rows if row["tracks"] == 2][: len(again)]
    for first, second in zip(of_two, again, strict=True):
        assert {name: first[name] for name in script.MEASURES} == {
            name: second[name] for name in script.MEASURES
        }
    with pytest.raises(SystemExit):
        script.main([*arguments, "--only", "3"])


def test_relit_sources_change_the_light_alone(script: ModuleType, splits: PreparedSplits) -> None:
    kept, ceiling = splits.train.images[:20], splits.train.images[20:40]
    light = BorrowedLight.of(splits.train.images, splits.train.labels)
    plain, changed = (
        script.images_of(source, 0, 20, 3, kept=kept, ceiling=ceiling, gan=None, light=light)
        for source in ("kept", "kept_relit")
    )
    assert torch.equal(changed, light(plain, 3))
    assert not torch.equal(changed, plain)


def test_spread_repeats_only_when_it_must(script: ModuleType) -> None:
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)
    rng = torch.Generator().manual_seed(0)
    assert sorted(script.spread(images, 5, rng).flatten().tolist()) == [0, 1, 2, 3, 4]
    assert torch.bincount(script.spread(images, 12, rng).flatten()).sort().values.tolist() == [
        2, 2, 2, 3, 3,
    ]  # fmt: skip
