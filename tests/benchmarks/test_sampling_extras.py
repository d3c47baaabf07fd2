from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from signforge.config import ClassifierConfig
from signforge.data.prepare import load_prepared_splits
from signforge.errors import SignforgeError
from signforge.evaluate.features import train_extractor
from signforge.gan.sampler import draw_latents, load_sampler
from support.tiny_runs import load_script, tiny_config


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("sampling_extras")


@pytest.fixture(scope="module")
def extractor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extractor")
    train = load_prepared_splits(tiny_config().data).train
    train_extractor(train, config=ClassifierConfig(name="test_resnet"), steps=8, seed=0).save(
        folder
    )
    return folder


def test_a_class_is_normalised_by_what_its_own_samples_measure(
    script: ModuleType, run: Path
) -> None:
    sampler = load_sampler(run)
    generator = sampler.generator
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    seen: list[torch.Tensor] = []
    hook = generator.last_norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with script.class_statistics(sampler, 1, 1.0):
        assert not any(m.training for m in generator.modules() if isinstance(m, nn.BatchNorm2d))
        (activations,) = seen
        assert torch.allclose(
            generator.last_norm.running_mean, activations.mean((0, 2, 3)), atol=1e-5
        )
        assert torch.allclose(
            generator.last_norm.running_var, activations.var((0, 2, 3)), rtol=1e-3
        )
        whole = generator.last_norm.running_mean.clone()
    with script.class_statistics(sampler, 1, 0.5):
        halfway = (whole + before["last_norm.running_mean"]) / 2
        assert torch.allclose(generator.last_norm.running_mean, halfway, atol=1e-5)
    hook.remove()
    after = generator.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    labels = torch.ones(4, dtype=torch.int64)
    z = draw_latents(4, generator.z_dim, 0)
    assert torch.equal(generator(z, labels), load_sampler(run).generator(z, labels))


def test_every_variant_has_a_line(
    script: ModuleType, run: Path, extractor: Path, tmp_path: Path
) -> None:
    out = tmp_path / "table.md"
    command = ["--run", str(run), "--data", "demo", "--extractor", str(extractor)]
    script.main([*command, "--out", str(out)])
    text = out.read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert [line.split(" | ")[0][2:] for line in lines] == [v.title for v in script.VARIANTS]
    assert lines[0].split(" | ")[3] == "1.00"
    assert len({line.split(" | ", 1)[1] for line in lines}) == len(lines)
    assert "python benchmarks/sampling_extras.py" in text


def test_an_extractor_of_other_images_is_refused(
    script: ModuleType, run: Path, tmp_path: Path
) -> None:
    val = load_prepared_splits(tiny_config().data).val
    other = train_extractor(val, config=ClassifierConfig(name="test_resnet"), steps=2, seed=0)
    other.save(tmp_path)
    command = ["--run", str(run), "--data", "demo", "--extractor", str(tmp_path)]
    with pytest.raises(SignforgeError, match="other images than the training split"):
        script.main([*command, "--out", str(tmp_path / "table.md")])
