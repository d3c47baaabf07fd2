"""Inception-v3 features as FID has them, where the user has the weights: nothing is downloaded.

The network is torchmetrics' (which is torch-fidelity's); Heusel et al. 2017 (1706.08500). Its
weights are read as plain tensors, because torch-fidelity itself would unpickle anything.
"""

import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from signforge.data.images import LabeledImages
from signforge.device import resolve_device
from signforge.errors import SignforgeError
from signforge.evaluate.fidelity import (
    draw_samples,
    frechet_distance,
    kid,
    proportional_counts,
    repeats,
    same_labels,
)
from signforge.files import sha256
from signforge.gan.sampler import ClassConditionalSampler
from signforge.progress import Track, no_progress
from signforge.seeds import derive_seed

KNOWN_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Of the weights that published FIDs are computed with (TensorFlow's of 2015, ported)."""
FILE_NAMES = (
    "weights-inception-2015-12-05-6726825d.pth",
    "pt_inception-2015-12-05-6726825d.pth",
)
"""As torch-fidelity and pytorch-fid call that file in torch's cache."""
WIDTH = 2048
BATCH_SIZE = 32


@dataclass(frozen=True)
class InceptionReport:
    """fid, kid: n samples against n real images; fid_floor, kid_floor: training images instead.

    known_weights: whether they are those of published FIDs.
    """

    n: int
    fid: float
    fid_floor: float
    kid: float
    kid_floor: float
    weights_sha256: str
    known_weights: bool


class InceptionFeatures:
    """Frozen Inception-v3: images to the 2048 pooled features, in fp32."""

    def __init__(self, model: nn.Module, weights_sha256: str, device: torch.device) -> None:
        model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model.eval().requires_grad_(False)
        self.weights_sha256 = weights_sha256
        self.device = device

    def features(self, images: Tensor, track: Track = no_progress) -> Tensor:
        """float32 (N, 2048) on the CPU for uint8 (N, 3, R, R), resized to 299 as torchmetrics
        does: bilinear, with antialiasing."""
        starts = range(0, len(images), BATCH_SIZE)
        rows = []
        with torch.no_grad():
            for start in track(starts, "Inception features", len(starts)):
                batch = images[start : start + BATCH_SIZE].to(self.device)
                batch = batch.contiguous(memory_format=torch.channels_last)
                rows.append(self.model(batch).float().cpu())
        return torch.cat(rows)


def find_inception_weights(path: str | None) -> Path | None:
    """``path``, or the file in torch's cache; None where there is neither.

    Raises SignforgeError where ``path`` is no file, or torch-fidelity is not installed for it.
    """
    installed = find_spec("torch_fidelity") is not None
    if path is None:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        kept = [folder / name for name in FILE_NAMES if (folder / name).is_file()]
        return kept[0] if kept and installed else None
    if not Path(path).is_file():
        raise SignforgeError(
            f"There are no Inception weights at {path}; give the file {FILE_NAMES[0]}, or leave "
            "out benchmark.inception_weights."
        )
    if not installed:
        raise SignforgeError(
            "The Inception distance needs torch-fidelity: install signforge[inception], or leave "
            "out benchmark.inception_weights."
        )
    return Path(path)


def load_inception(path: Path, device: str = "auto") -> InceptionFeatures:
    """The network with the weights in ``path``, a state dict of tensors.

    Raises SignforgeError for a file that holds anything else; no code in it is run.
    """
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        content = path.read_bytes()
    except OSError as error:
        raise SignforgeError(f"Cannot read {path}: {error.strerror}.") from None
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises nearly anything for a broken file
        raise SignforgeError(
            f"{path} holds no plain tensors: {' '.join(str(error).split())[:200]}"
        ) from None
    with tempfile.TemporaryDirectory() as folder:
        # torch-fidelity unpickles what it is given: it gets a copy that holds only these tensors.
        copy = Path(folder) / "inception.pth"
        torch.save(tensors, copy)
        try:
            model: nn.Module = NoTrainInceptionV3(
                name="inception-v3-compat",
                features_list=[str(WIDTH)],
                feature_extractor_weights_path=str(copy),
            )
        except (RuntimeError, TypeError, AttributeError) as error:
            raise SignforgeError(
                f"{path} does not hold Inception-v3's weights: {' '.join(str(error).split())[:200]}"
            ) from None
    return InceptionFeatures(model, sha256(content), resolve_device(device))


def inception_report(
    inception: InceptionFeatures,
    sampler: ClassConditionalSampler,
    reference: LabeledImages,
    train: LabeledImages,
    *,
    most: int,
    seed: int,
    track: Track = no_progress,
) -> InceptionReport:
    """Samples, and training images as the floor, against ``reference``, as in ``fidelity_report``.

    most: images a side; fewer than the reference has are taken in its own proportions of classes,
        and one more of each class that would get none.
    """
    counts = proportional_counts(
        reference.class_counts, min(most, len(reference)), at_least_one=True
    )
    rng = torch.Generator().manual_seed(derive_seed(seed, 2))
    rows = same_labels(reference, counts, rng)
    labels = reference.labels[rows]
    samples = draw_samples(sampler, labels, seed, track)
    floor_rows = same_labels(train, counts, rng)
    others = train.images[floor_rows]
    real, fake, floor = (
        inception.features(images, track) for images in (reference.images[rows], samples, others)
    )
    return InceptionReport(
        n=len(labels),
        fid=frechet_distance(real, fake),
        fid_floor=frechet_distance(real, floor),
        kid=kid(real, fake),
        kid_floor=kid(real, floor[~repeats(floor_rows)]),
        weights_sha256=inception.weights_sha256,
        known_weights=inception.weights_sha256 == KNOWN_SHA256,
    )
