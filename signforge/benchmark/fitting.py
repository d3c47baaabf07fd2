"""One classifier trained as an arm says, the same way for a test and for a trial."""

from torch import nn

from signforge.benchmark.arms import ArmSetup
from signforge.classify.checkpoint import FitCheckpoint
from signforge.classify.model import build_classifier
from signforge.classify.training import FitResult, fit_classifier
from signforge.config import ClassifierConfig
from signforge.data.images import LabeledImages
from signforge.progress import Track, no_progress


def fit_arm(
    setup: ArmSetup,
    train: LabeledImages,
    config: ClassifierConfig,
    *,
    seed: int,
    checkpoint: FitCheckpoint | None = None,
    track: Track = no_progress,
) -> tuple[nn.Module, FitResult]:
    """The trained classifier, as ``fit_classifier`` leaves it, and what it cost.

    train: says how many classes there are and how large images are. For one ``seed`` all arms
    begin with the same weights, but for a last layer that gives cosines.
    """
    model = build_classifier(
        config.name,
        num_classes=train.num_classes,
        resolution=train.resolution,
        pretrained=config.pretrained,
        seed=seed,
        cosine_scale=setup.cosine_scale,
    )
    result = fit_classifier(
        model,
        setup.dataset,
        config=config,
        seed=seed,
        sampler=setup.sampler,
        loss=setup.loss,
        ending=setup.ending,
        checkpoint=checkpoint,
        track=track,
    )
    return model, result
