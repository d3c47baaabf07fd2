import dataclasses
from types import SimpleNamespace

import pytest
import torch

from signforge.benchmark.fidelity import measure_fidelity, needs_cas
from signforge.benchmark.folder import config_hash, read_json, write_json
from signforge.errors import SignforgeError
from signforge.evaluate.inception import InceptionReport


@pytest.fixture(scope="module")
def quick(config):
    benchmark = config.benchmark.model_copy(update={"extractor_steps": 30})
    return config.model_copy(update={"benchmark": benchmark})


def test_the_generator_is_measured_once_and_by_validation_images(quick, splits, sampler, tmp_path):
    blind = dataclasses.replace(splits, test=None)
    found = measure_fidelity(quick, blind, sampler, tmp_path)
    assert found["n"] == len(splits.val)
    assert read_json(tmp_path / "fidelity.json") == found

    def never(_items, description, _total):
        raise AssertionError(description)

    assert measure_fidelity(quick, splits, sampler, tmp_path, track=never) == found


def test_another_generator_is_measured_by_the_same_extractor(quick, splits, sampler, tmp_path):
    near = measure_fidelity(quick, splits, type(sampler)(noise=60.0), tmp_path)
    far = measure_fidelity(quick, splits, type(sampler)(noise=500.0), tmp_path)
    assert far["extractor_sha256"] == near["extractor_sha256"]
    assert far["fd"] > near["fd"]


def test_an_extractor_of_other_images_is_not_used_again(quick, splits, sampler, tmp_path):
    first = measure_fidelity(quick, splits, sampler, tmp_path)
    other = dataclasses.replace(splits, train=splits.train.subset(torch.arange(5, 190)))
    second = measure_fidelity(quick, other, sampler, tmp_path)
    assert second["extractor_sha256"] != first["extractor_sha256"]
    assert read_json(tmp_path / "fidelity.json") == second


def test_every_part_stands_in_the_file(quick, splits, sampler, tmp_path):
    found = measure_fidelity(quick, splits, sampler, tmp_path)
    assert set(found["coverage"]) == {"samples", "floor"}
    assert all(len(found["per_class"][key]) == 4 for key in ("n", "fd", "kid_floor", "coverage"))
    assert set(found["memorization"]) == {"features", "pixels"}
    assert found["cas"]["steps"] == quick.classifier.steps
    assert len(found["cas"]["per_class_recall"]) == 4
    assert "inception" not in found


def test_an_older_file_gains_what_it_lacks(quick, splits, sampler, tmp_path):
    whole = measure_fidelity(quick, splits, sampler, tmp_path)
    new = {"per_class", "coverage", "memorization", "cas"}
    old = {key: value for key, value in whole.items() if key not in new}
    write_json(tmp_path / "fidelity.json", old)
    assert measure_fidelity(quick, splits, sampler, tmp_path) == whole


def test_a_kill_costs_one_part(quick, splits, sampler, tmp_path, monkeypatch):
    class Killed(Exception):  # noqa: N818
        pass

    def killed(*_args, **_kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("signforge.benchmark.fidelity.synthetic_accuracy", killed)
        with pytest.raises(Killed):
            measure_fidelity(quick, splits, sampler, tmp_path)
    kept = read_json(tmp_path / "fidelity.json")
    assert "per_class" in kept
    assert "cas" not in kept
    monkeypatch.setattr("signforge.benchmark.fidelity.quality_report", killed)
    resumed = measure_fidelity(quick, splits, sampler, tmp_path)
    assert {key: value for key, value in resumed.items() if key != "cas"} == kept
    assert resumed["cas"]["steps"] == quick.classifier.steps


def test_every_part_takes_validation_for_the_judge_and_training_for_the_floor(
    quick, splits, sampler, tmp_path, monkeypatch
):
    weights = tmp_path / "inception.pth"
    weights.write_bytes(b"weights")
    report = SimpleNamespace(as_dict=lambda: {"sampler_fingerprint": "s", "per_class": {}})
    distances = InceptionReport(40, 1.0, 1.0, 1.0, 1.0, "w", known_weights=False)
    given = {}

    def stand_in(name, result):
        def spy(*args, **options):
            given[name] = (args, options)
            return result

        monkeypatch.setattr(f"signforge.benchmark.fidelity.{name}", spy)

    stand_in("find_inception_weights", weights)
    stand_in("load_inception", "network")
    stand_in("quality_report", report)
    stand_in("synthetic_accuracy", report)
    stand_in("inception_report", distances)
    extractor = SimpleNamespace(weights_sha256="e")
    found = measure_fidelity(quick, splits, sampler, tmp_path, extractor=extractor)
    assert found["inception"]["fid"] == 1.0
    expected = {
        "load_inception": (weights, "cpu"),
        "quality_report": (sampler, extractor, splits.val, splits.train),
        "synthetic_accuracy": (sampler, splits.train, splits.val),
        "inception_report": ("network", sampler, splits.val, splits.train),
    }
    assert {name: given[name][0] for name in expected} == expected
    assert given["inception_report"][1]["most"] == quick.benchmark.inception_images


def test_the_score_follows_its_own_steps(quick, splits, sampler, tmp_path):
    def asked(cas_steps):
        benchmark = quick.benchmark.model_copy(update={"cas_steps": cas_steps})
        return quick.model_copy(update={"benchmark": benchmark})

    assert "cas" not in measure_fidelity(asked(0), splits, sampler, tmp_path)
    assert measure_fidelity(asked(2), splits, sampler, tmp_path)["cas"]["steps"] == 2
    assert measure_fidelity(asked(4), splits, sampler, tmp_path)["cas"]["steps"] == 4
    assert measure_fidelity(asked(0), splits, sampler, tmp_path)["cas"]["steps"] == 4


def test_more_seeds_of_the_arms_leave_the_score_as_it_is(quick, splits, sampler, tmp_path):
    before = measure_fidelity(quick, splits, sampler, tmp_path)
    benchmark = quick.benchmark.model_copy(update={"first_seed": 3, "seeds": 2})
    more = quick.model_copy(update={"benchmark": benchmark})
    assert not needs_cas(more, before)
    assert measure_fidelity(more, splits, sampler, tmp_path) == before


def test_weights_that_were_asked_for_must_be_there(quick, splits, sampler, tmp_path):
    benchmark = quick.benchmark.model_copy(update={"inception_weights": "no/such.pth"})
    asked = quick.model_copy(update={"benchmark": benchmark})
    with pytest.raises(SignforgeError, match="no Inception weights at no/such"):
        measure_fidelity(asked, splits, sampler, tmp_path)


def test_what_is_measured_changes_no_row(config):
    benchmark = {"cas_steps": 7, "inception_weights": "x", "inception_images": 9, "budget": "quick"}
    other = config.model_copy(update={"benchmark": config.benchmark.model_copy(update=benchmark)})
    assert config_hash(other) == config_hash(config)
