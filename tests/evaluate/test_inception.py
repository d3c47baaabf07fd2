"""The real network with random weights: the published ones are 95 MB and lie on no test machine."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.evaluate.inception import (
    FILE_NAMES,
    find_inception_weights,
    inception_report,
    load_inception,
)
from signforge.files import sha256

INSTALLED = find_spec("torch_fidelity") is not None
needs_torch_fidelity = pytest.mark.skipif(not INSTALLED, reason="needs signforge[inception]")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of Inception's shapes, scaled so that features keep their size."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    class Shapes(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_args: object) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_args, **_kwargs: {})
        network = Shapes("shapes", ["2048"])
    rng = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(value.shape, generator=rng) * (2 / value[0].numel()) ** 0.5
        if value.ndim > 1
        else value
        for name, value in network.state_dict().items()
    }
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path)
    return path


@needs_torch_fidelity
@pytest.mark.slow
def test_the_distance_is_torchmetrics_own(
    weights: Path, train: LabeledImages, reference: LabeledImages
) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Noisy:
        num_classes, resolution = train.num_classes, train.resolution
        class_names, fingerprint = train.class_names, "noisy"

        def sample(self, labels: torch.Tensor, seed: int) -> torch.Tensor:
            rng = torch.Generator().manual_seed(seed)
            shape = (len(labels), 3, train.resolution, train.resolution)
            return torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)

    inception = load_inception(weights, "cpu")
    report = inception_report(inception, Noisy(), reference, train, most=8, seed=0)
    assert report.n == 8
    assert report.fid > 2 * report.fid_floor > 0
    assert not report.known_weights
    assert report.weights_sha256 == sha256(weights.read_bytes())

    metric = FrechetInceptionDistance(inception.model, input_img_size=(3, 16, 16))
    metric.set_dtype(torch.float64)
    first, second = reference.images[:6], train.images[:6]
    metric.update(first, real=True)
    metric.update(second, real=False)
    ours = inception.features(torch.cat([first, second]))
    from signforge.evaluate.fidelity import frechet_distance

    found = frechet_distance(ours[:6], ours[6:])
    # torchmetrics' eigenvalues of a 2048 x 2048 product of rank 5 carry rounding of their own.
    assert found == pytest.approx(float(metric.compute()), rel=1e-4)


@needs_torch_fidelity
def test_weights_are_found_in_torchs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert find_inception_weights(None) is None
    kept = tmp_path / "checkpoints" / FILE_NAMES[1]
    kept.parent.mkdir()
    kept.touch()
    assert find_inception_weights(None) == kept
    assert find_inception_weights(str(kept)) == kept


def test_without_torch_fidelity_only_a_wish_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signforge.evaluate.inception.find_spec", lambda _name: None)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    kept = tmp_path / "checkpoints" / FILE_NAMES[0]
    kept.parent.mkdir()
    kept.touch()
    assert find_inception_weights(None) is None
    with pytest.raises(SignforgeError, match=r"install signforge\[inception\]"):
        find_inception_weights(str(kept))
    with pytest.raises(SignforgeError, match="no Inception weights at"):
        find_inception_weights(str(tmp_path / "missing.pth"))


class Harmful:
    """A pickle that would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)


@needs_torch_fidelity
def test_no_code_in_the_file_is_run(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "weights.pth"
    torch.save({"fc.weight": Harmful(trace)}, path)
    with pytest.raises(SignforgeError, match="holds no plain tensors"):
        load_inception(path, "cpu")
    assert not trace.exists()
    torch.save({"fc.weight": torch.zeros(2)}, path)
    with pytest.raises(SignforgeError, match="does not hold Inception-v3's weights"):
        load_inception(path, "cpu")
