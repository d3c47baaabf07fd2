"""How fast this machine is at what a benchmark does, from a few runs of the real models."""

import time

import torch

from signforge.classify.model import build_classifier
from signforge.classify.training import fit_classifier, predict_logits
from signforge.config import ClassifierConfig
from signforge.data.splits import PreparedSplits
from signforge.evaluate.coverage import coverage_report
from signforge.evaluate.fidelity import kid
from signforge.evaluate.quality import NEIGHBOURS
from signforge.gan.sampler import ClassConditionalSampler

WARM_STEPS = 3
TIMED_STEPS = 5
TIMED_IMAGES = 256
TIMED_FEATURES = 512


def measure_classifier(config: ClassifierConfig, splits: PreparedSplits) -> tuple[float, float]:
    """Seconds of one training step, and of one prediction."""
    train = splits.train
    model = build_classifier(
        config.name,
        num_classes=train.num_classes,
        resolution=train.resolution,
        pretrained=False,
        seed=0,
    )
    for steps in (WARM_STEPS, TIMED_STEPS):
        few = config.model_copy(update={"steps": steps})
        fit = fit_classifier(model, train, config=few, seed=0)
    images = train.images[:TIMED_IMAGES]
    started = time.perf_counter()
    predict_logits(model, images, precision=config.precision)
    return fit.seconds / TIMED_STEPS, (time.perf_counter() - started) / len(images)


def measure_sampling_rate(sampler: ClassConditionalSampler) -> float:
    """Images a second that the generator draws."""
    labels = torch.arange(TIMED_IMAGES) % sampler.num_classes
    started = time.perf_counter()
    sampler.sample(labels, seed=0)
    return TIMED_IMAGES / max(time.perf_counter() - started, 1e-9)


def measure_pair_seconds() -> float:
    """Of what every pair of a sample and a real image costs: KID and neighbours among features."""
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, TIMED_IMAGES, TIMED_FEATURES, generator=rng)
    started = time.perf_counter()
    for _ in ("samples", "floor"):
        coverage_report(real, fake, k=NEIGHBOURS)
        kid(real, fake)
    return (time.perf_counter() - started) / TIMED_IMAGES**2
