"""From a generator to a folder: which request, which gate, and what is said about both."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from signforge.balance.classifier_gate import ClassifierGate
from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.balance.plan import BalancePlan, ClassDecision
from signforge.config import Config, GanConfig
from signforge.config_file import merge_overrides
from signforge.data.encode import encode_png
from signforge.data.images import LabeledImages
from signforge.data.splits import PreparedSplits
from signforge.errors import SignforgeError
from signforge.export.job import export_balanced
from signforge.export.manifest import read_manifest
from signforge.gan.sampler import GanSampler, GeneratorCard, build_generator

GAN = GanConfig(z_dim=4, base_channels=4, embedding_dim=4, device="cpu")
FOLDERS = ("00000_stop", "00001_yield", "00002_no-entry", "00003_ahead")


@pytest.fixture
def splits(make_real) -> PreparedSplits:
    parts = [make_real(counts, resolution=16) for counts in ((5, 9, 2, 4), (1, 1, 1, 1))]
    return PreparedSplits(parts[0], parts[1], parts[1])


def make_gan(train: LabeledImages, **card: object) -> GanSampler:
    """A generator that never trained."""
    torch.manual_seed(0)
    values = {
        "gan": GAN,
        "resolution": 16,
        "class_names": train.class_names,
        "class_counts": tuple(train.class_counts.tolist()),
        "train_fingerprint": train.fingerprint,
        "seen_kimg": 0.0,
        "seconds": 0.0,
        "weights_sha256": "a" * 64,
        **card,
    }
    sampler_card = GeneratorCard.model_validate(values)
    generator = build_generator(GAN, num_classes=len(sampler_card.class_names), resolution=16)
    return GanSampler(generator, sampler_card, torch.device("cpu"))


def config(**balance: object) -> Config:
    values = {"gate_tau": 0.0, "gate_steps": 1, **balance}
    keys = [(f"balance.{key}", value) for key, value in values.items()]
    small = [("name", "test_resnet"), ("batch_size", 4), ("device", "cpu"), ("precision", "fp32")]
    return merge_overrides({}, [*keys, *((f"classifier.{k}", v) for k, v in small)], "test")


def record(out: Path) -> dict:
    return json.loads((out / "export.json").read_text())


def test_the_training_split_is_filled_up_and_others_are_not(splits, tmp_path) -> None:
    gan = make_gan(splits.train)
    report = export_balanced(gan, config(), splits, tmp_path, also=("test", "val"), seed=3)
    assert list(report.counts) == ["train", "val", "test"]
    assert report.total("train", "real") == 20
    assert report.total("train", "synthetic") == 16
    assert report.total("val", "real") == report.total("test", "real") == 4
    assert report.facts["generator_saw_only_train"] is True
    assert report.facts["gate"] is None
    request = record(tmp_path)["request"]
    assert request["target_counts"] == dict.fromkeys(FOLDERS, 9)
    assert request["oversampled_classes"] == []
    assert (request["seed"], request["epoch"]) == (3, 0)
    assert request["fingerprints"] == {
        "generator": "a" * 64,
        **{name: getattr(splits, name).fingerprint for name in ("train", "val", "test")},
    }
    assert request["config"]["balance"]["sampling_strategy"] == "auto"
    assert "source" not in request["config"]["data"]
    assert "classifier" not in request["config"]


def test_the_same_again_draws_nothing(splits, tmp_path, monkeypatch) -> None:
    gan = make_gan(splits.train)
    first = export_balanced(gan, config(), splits, tmp_path)
    monkeypatch.setattr(GanSampler, "sample", None)
    again = export_balanced(gan, config(), splits, tmp_path)
    assert (again.was_complete, again.counts, again.facts) == (True, first.counts, first.facts)


def test_seed_and_epoch_are_those_of_the_data_set(splits, tmp_path) -> None:
    gan = make_gan(splits.train)
    export_balanced(gan, config(refresh=1.0), splits, tmp_path, epoch=2, seed=7)
    data = SyntheticBalancedDataset(splits.train, gan, refresh=1.0, seed=7)
    first = encode_png(data[30][0])
    data.set_epoch(2)
    rows = read_manifest(tmp_path / "manifest.csv")
    assert [(tmp_path / row.file).read_bytes() for row in rows] == [
        encode_png(data[index][0]) for index in range(len(data))
    ]
    assert encode_png(data[30][0]) != first


def test_a_plan_file_decides(splits, tmp_path) -> None:
    train = splits.train
    counts = train.class_counts.tolist()
    remedies = (("synthetic", 8), ("nothing", counts[1]), ("oversample", 7), ("nothing", counts[3]))
    decisions = tuple(
        ClassDecision(name=name, remedy=remedy, count=count, real_count=real_count)
        for name, (remedy, count), real_count in zip(
            train.class_names, remedies, counts, strict=True
        )
    )
    plan = tmp_path / "plan.yaml"
    BalancePlan(decisions=decisions).save(plan)
    out = tmp_path / "out"
    report = export_balanced(
        make_gan(train), config(sampling_strategy=str(plan)), splits, out, epoch=2
    )
    of = report.counts["train"]
    assert of["00000_stop"] == {"real": 5, "synthetic": 3, "oversampled": 0}
    assert of["00001_yield"] == {"real": 9, "synthetic": 0, "oversampled": 0}
    assert of["00002_no-entry"] == {"real": 2, "synthetic": 0, "oversampled": 5}
    assert of["00003_ahead"] == {"real": 4, "synthetic": 0, "oversampled": 0}
    request = record(out)["request"]
    assert request["oversampled_classes"] == ["00002_no-entry"]
    assert request["config"]["balance"]["sampling_strategy"] == "plan.yaml"


def test_a_gate_is_fitted_once_and_kept(splits, tmp_path, monkeypatch) -> None:
    """Even tau 1 keeps what softmax rounds to 1, so the floor is what fills classes up here."""
    gan, strict = make_gan(splits.train), config(gate_tau=0.999, min_acceptance=1.0)
    out = tmp_path / "out"
    with pytest.warns(UserWarning, match="oversampled real images fill these classes"):
        report = export_balanced(gan, strict, splits, out)
    assert report.total("train", "oversampled") == 16
    gate = ClassifierGate.load(out / "gate")
    assert gate.tau == 0.999
    assert gate.card.classifier.steps == 1
    assert gate.card.train_fingerprint == splits.train.fingerprint
    facts = record(out)["facts"]["gate"]
    assert facts["tau"] == 0.999
    assert facts["acceptance"]["00000_stop"] < 1.0
    assert facts["acceptance"]["00001_yield"] is None
    assert list(facts["real_acceptance"]) == list(FOLDERS)
    assert record(out)["request"]["config"]["classifier"]["name"] == "test_resnet"

    monkeypatch.setattr("signforge.balance.classifier_gate.fit_classifier_gate", None)
    lost = next((out / "train/00000_stop").glob("oversampled_*.png"))
    content = lost.read_bytes()
    lost.unlink()
    with pytest.warns(UserWarning, match="oversampled real images fill these classes"):
        again = export_balanced(gan, strict, splits, out)
    assert (again.written, again.counts) == (1, report.counts)
    assert lost.read_bytes() == content


def test_stopped_while_the_gate_is_kept(splits, tmp_path, monkeypatch) -> None:
    gan, gated = make_gan(splits.train), config(gate_tau=0.01)

    def stop(_gate: ClassifierGate, folder: Path) -> None:
        folder.mkdir()
        (folder / "half a file").write_text("")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierGate, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            export_balanced(gan, gated, splits, tmp_path)
    assert record(tmp_path)["complete"] is False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # whatever this gate thinks of the samples
        export_balanced(gan, gated, splits, tmp_path)
    assert {path.name for path in (tmp_path / "gate").iterdir()} == {
        "gate.json",
        "gate.safetensors",
    }
    assert record(tmp_path)["complete"] is True


def test_no_gate_is_fitted_where_nothing_is_to_be_drawn(splits, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("signforge.balance.classifier_gate.fit_classifier_gate", None)
    nothing = config(gate_tau=0.5, max_synthetic_fraction=0.0)
    report = export_balanced(make_gan(splits.train), nothing, splits, tmp_path)
    assert report.total("train", "synthetic") == 0
    assert not (tmp_path / "gate").exists()


def test_a_generator_of_other_images_is_noted_or_refused(splits, tmp_path) -> None:
    gan = make_gan(splits.train, train_fingerprint="other")
    with pytest.raises(SignforgeError, match="may have seen those of val and test, which then"):
        export_balanced(gan, config(), splits, tmp_path / "out", also=("val", "test"))
    assert not (tmp_path / "out").exists()
    with pytest.warns(UserWarning, match="was trained on other images than this training split"):
        report = export_balanced(gan, config(), splits, tmp_path / "out")
    assert report.facts["generator_saw_only_train"] is False


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("stop", "yield"), r"2 classes are not the data's 4 \(another number\)"),
        (("stop", "yield", "ahead", "no entry"), r"\('ahead' is not 'no entry'\)"),
    ],
)
def test_a_generator_of_other_classes_is_refused(splits, tmp_path, names, says) -> None:
    gan = make_gan(splits.train, class_names=names, class_counts=(1,) * len(names))
    with pytest.raises(SignforgeError, match=says):
        export_balanced(gan, config(), splits, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "also", "says"),
    [
        ({}, ("vall",), "Cannot export 'vall' beside train"),
        ({}, ("train",), "Cannot export 'train' beside train"),
        ({"sampling_strategy": "autoo"}, (), "'autoo' is neither one of"),
        ({"sampling_strategy": {"stop": 4}}, (), "has 5 real images, a target of 4"),
        ({"sampling_strategy": {"stpo": 9}}, (), "did you mean 'stop'?"),
    ],
)
def test_a_bad_request_writes_nothing(splits, tmp_path, given, also, says) -> None:
    with pytest.raises(SignforgeError) as said:
        export_balanced(
            make_gan(splits.train), config(**given), splits, tmp_path / "out", also=also
        )
    assert says in str(said.value)
    assert not (tmp_path / "out").exists()


def test_another_strategy_in_the_same_folder_is_refused(splits, tmp_path) -> None:
    gan = make_gan(splits.train)
    export_balanced(gan, config(), splits, tmp_path)
    before = (tmp_path / "export.json").read_bytes()
    with pytest.raises(SignforgeError, match=r'balance\.sampling_strategy was "auto", is "all"'):
        export_balanced(gan, config(sampling_strategy="all"), splits, tmp_path)
    with pytest.raises(SignforgeError, match=r'fingerprints\.generator was "aaaaaaaaaaaaaaa'):
        export_balanced(make_gan(splits.train, weights_sha256="b" * 64), config(), splits, tmp_path)
    assert (tmp_path / "export.json").read_bytes() == before
