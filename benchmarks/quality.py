"""What the time-to-quality benchmark measures: samples of all methods before one judge.

Label agreement and Frechet distance against the validation split as ``fidelity_report`` defines
them, and the macro accuracy on it of a classifier trained on samples alone.
"""

from typing import Any

from signforge.config import ClassifierConfig, Config
from signforge.data.splits import PreparedSplits
from signforge.evaluate.classification_accuracy_score import real_accuracy, synthetic_accuracy
from signforge.evaluate.features import FeatureExtractor
from signforge.evaluate.fidelity import fidelity_report
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
    cas = None
    if cas_steps:
        settings = _for_steps(config, cas_steps)
        accuracy = synthetic_accuracy(
            sampler, splits.train, splits.val, config=settings, seed=CAS_SEED
        )
        cas = accuracy.macro_accuracy
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


def accuracy_of_real(config: Config, splits: PreparedSplits, steps: int) -> float:
    """The ceiling of ``cas``: macro accuracy after ``steps`` steps on real images."""
    settings = _for_steps(config, steps)
    report = real_accuracy(splits.train, splits.val, config=settings, seed=CAS_SEED)
    return report.macro_accuracy


def _for_steps(config: Config, steps: int) -> ClassifierConfig:
    return config.classifier.model_copy(update={"steps": steps})
