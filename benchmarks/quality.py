"""What the time-to-quality benchmark measures: samples of all methods before one judge.

Label agreement and Frechet distance against the validation split as ``fidelity_report`` defines
them; classification accuracy score (Ravuri & Vinyals 2019): macro accuracy on real validation
images of a classifier trained on samples alone, as many and of the same classes as real ones.
"""

import dataclasses
from typing import Any

from signforge.classify.model import build_classifier
from signforge.classify.training import fit_classifier, predict_logits
from signforge.config import Config
from signforge.data.images import LabeledImages
from signforge.data.splits import PreparedSplits
from signforge.evaluate.accuracy import accuracy_report
from signforge.evaluate.features import FeatureExtractor
from signforge.evaluate.fidelity import draw_samples, fidelity_report
from signforge.gan.sampler import ClassConditionalSampler

SAMPLES_SEED = 7
CAS_SEED = 11


def measure_quality(
    sampler: ClassConditionalSampler,
    judge: FeatureExtractor,
    config: Config,
    splits: PreparedSplits,
    cas_steps: int,
) -> dict[str, Any]:
    """JSON-ready; ``cas`` is None for no ``cas_steps``."""
    report = fidelity_report(sampler, judge, splits.val, splits.train, seed=SAMPLES_SEED)
    labels = splits.train.labels
    cas = None
    if cas_steps:
        images = draw_samples(sampler, labels, CAS_SEED)
        samples = dataclasses.replace(splits.train, images=images, source="samples")
        cas = accuracy_when_trained_on(samples, config, splits, cas_steps)
    return {
        "macro_label_agreement": report.macro_label_agreement,
        "worst_class_label_agreement": report.worst_class_label_agreement,
        "worst_class": report.worst_class,
        "fd": report.fd,
        "fd_floor": report.fd_floor,
        "fd_ratio": report.fd_ratio,
        "kid": report.kid,
        "n": report.n,
        "judge_sha256": report.extractor_sha256,
        "real_label_agreement": report.real_label_agreement,
        "cas": cas,
        "cas_steps": cas_steps,
    }


def accuracy_when_trained_on(
    images: LabeledImages, config: Config, splits: PreparedSplits, steps: int
) -> float:
    """Macro accuracy on the validation split after ``steps`` steps on ``images``."""
    settings = config.classifier.model_copy(update={"steps": steps})
    model = build_classifier(
        settings.name,
        num_classes=images.num_classes,
        resolution=images.resolution,
        pretrained=False,
        seed=CAS_SEED,
    )
    fit_classifier(model, images, config=settings, seed=CAS_SEED)
    preds = predict_logits(model, splits.val.images, precision=settings.precision).argmax(dim=1)
    return accuracy_report(preds, splits.val.labels, splits.train.class_counts).macro_accuracy
