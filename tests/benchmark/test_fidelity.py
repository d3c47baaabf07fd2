import dataclasses

import pytest
import torch

from signforge.benchmark.fidelity import measure_fidelity
from signforge.benchmark.folder import read_json


@pytest.fixture(scope="module")
def quick(config):
    benchmark = config.benchmark.model_copy(update={"extractor_steps": 30})
    return config.model_copy(update={"benchmark": benchmark})


def test_the_generator_is_measured_once_and_by_validation_images(quick, splits, sampler, tmp_path):
    found = measure_fidelity(quick, splits, sampler, tmp_path)
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
