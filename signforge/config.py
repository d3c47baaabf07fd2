"""Frozen typed configs: one section for each room, all of them in ``Config``."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of all configs: immutable, strict about names, and without what JSON cannot hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """Which images, at which size, split how."""

    source: str = "demo"
    """``demo``, or a path (see ``signforge data inspect --help`` for what it may hold)."""
    resolution: int = Field(32, ge=8, le=1024)
    """Height and width in pixels that every image is resized to."""
    crop: Literal["full", "roi"] = "full"
    """``roi`` cuts to the region of interest that a GTSRB CSV gives."""
    val_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of training images held out by whole groups for validation, if the source has none."""
    test_fraction: float = Field(0.2, gt=0, lt=1)
    """The same for test, for sources that come without a test split."""
    split_seed: int = Field(0, ge=0, lt=2**32)
    imbalance_ratio: float | None = Field(None, ge=1)
    """Cuts training to an exponential long tail of this n_max / n_min, by whole groups."""
    demo_scale: float = Field(0.1, gt=0, le=1)
    """Demo only: share of GTSRB's own class counts that is drawn."""
    classes: tuple[Annotated[str, Field(coerce_numbers_to_str=True)], ...] | None = None
    """Names or ids of the only classes to use, numbered anew from 0; None uses all."""


AdversarialLoss = Literal["logistic", "relativistic", "hinge"]


class GanConfig(Section):
    """The conditional DCGAN and its training."""

    z_dim: int = Field(100, ge=1)
    base_channels: int = Field(64, ge=4)
    """Channels at the highest resolution; they double with every halving, up to 8 times this."""
    embedding_dim: int = Field(64, ge=1)
    """Width of the class embedding that conditions the generator's batch norms."""
    upsample: Literal["transposed", "resize"] = "transposed"
    """How the generator doubles the resolution: transposed convolution, or nearest + 3x3."""
    projection_share: float = Field(1.0, ge=0, le=1)
    """Share of the images whose class the discriminator is told. The less it knows, the more a
    class may borrow looks from others, and the more the guide alone holds the class."""
    class_from_resolution: int = Field(4, ge=4)
    """Generator layers below this height and width do not see the class, only the latent."""
    discriminator_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the discriminator's last feature maps that is dropped."""
    batch_size: int = Field(64, ge=2)
    generator_learning_rate: float = Field(4e-4, gt=0)
    discriminator_learning_rate: float = Field(4e-4, gt=0)
    learning_rate_decay_from_kimg: float | None = Field(300.0, ge=0)
    """From here both learning rates fall linearly, to zero at ``total_kimg``; None, and a value
    beyond that length, keeps them as they are."""
    adam_beta1: float = Field(0.0, ge=0, lt=1)
    adam_beta2: float = Field(0.99, ge=0, lt=1)
    loss: AdversarialLoss = "logistic"
    """``relativistic`` compares each fake with a real image of its class, and penalises the
    gradient on fakes too. ``hinge`` is usual with ``spectral_norm`` and ``r1_gamma`` 0."""
    fresh_fakes: bool = False
    """Draws fakes anew for the generator's update; without, it learns from those that the
    discriminator has just seen, which is a tenth faster."""
    spectral_norm: bool = False
    """Divides every weight of the discriminator by its largest singular value."""
    r1_gamma: float = Field(1.0, ge=0)
    """Weight of the gradient penalty on real images."""
    r1_every_steps: int = Field(8, ge=1)
    lecam_weight: float = Field(0.0, ge=0)
    """Weight of the pull of logits towards the other side's moving average."""
    gsr_weight: float = Field(0.0, ge=0)
    """Weight of the group spectral regularisation of the generator's class-conditional norms."""
    guide_weight: float = Field(0.1, ge=0)
    """Weight of the guide, a classifier of real images, in the generator's loss; 0 trains none."""
    guide_margin: float = Field(0.2, ge=0)
    """Cross-entropy in nats below which the guide is content with a fake."""
    guide_steps: int = Field(1500, ge=1)
    """Optimizer steps of the guide, before the GAN's first."""
    class_prior: Literal["empirical", "tempered", "uniform"] = "uniform"
    """Label distribution that both real and fake batches are drawn from; ``tempered`` is
    proportional to the square root of the class counts."""
    class_prior_warmup_kimg: float = Field(0.0, ge=0)
    """Over these first kimg the prior goes linearly from empirical to ``class_prior``."""
    conditioning_warmup_kimg: float = Field(0.0, ge=0)
    """Over these first kimg the class gains its weight in both networks, linearly from none."""
    augment: tuple[Literal["color", "translation", "geometric", "cutout"], ...] = ()
    """Differentiable augmentations applied to all the discriminator sees; never flips."""
    augment_probability: float = Field(1.0, gt=0, le=1)
    """Share of the images that are augmented."""
    ema_halflife_kimg: float = Field(10.0, gt=0)
    total_kimg: float = Field(600.0, gt=0)
    """Training length in thousands of real images shown to the discriminator."""
    max_minutes: float | None = Field(None, gt=0)
    """Stops earlier, at this wall-clock time of training."""
    status_every_kimg: float = Field(5.0, gt=0)
    samples_every_kimg: float = Field(50.0, gt=0)
    checkpoint_every_kimg: float = Field(50.0, gt=0)
    checkpoint_every_minutes: float | None = Field(10.0, gt=0)
    """Saves as well whenever this much training time has passed since the last save."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints to keep, beside the best by validation Frechet distance."""
    max_rollbacks: int = Field(3, ge=0)
    """How often a non-finite loss or gradient may send the run back to its last good state, each
    time at half the learning rates, before it gives up."""
    probe_every_kimg: float | None = Field(50.0, gt=0)
    """Judges samples against the validation split this often and at the end, which tells collapsed
    classes and chooses the best checkpoint; None never does."""
    probe_classifier: str = "resnet18"
    """timm model that is trained on the real training split to judge samples with."""
    probe_steps: int = Field(400, ge=1)
    """Optimizer steps of the probe's classifier."""
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    """Where metrics go beside metrics.jsonl; needs the extra ``signforge[trackers]``."""
    compile: bool = False
    """``torch.compile`` for both networks; pays on GPUs and for long runs."""
    deterministic: bool = False
    """Only algorithms that give the same bits each time, which a GPU is slower by: a resumed run
    ends there, too, as one that never stopped. A CPU's always do."""
    seed: int = Field(0, ge=0, lt=2**32)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``auto`` is bf16 autocast where the hardware multiplies bf16 faster than fp32."""
    device: str = "auto"


class BalanceConfig(Section):
    """How rare classes are filled up."""

    sampling_strategy: str | dict[Annotated[str, Field(coerce_numbers_to_str=True)], int] = "auto"
    """imbalanced-learn's names, or {class name or id: target count}."""
    max_synthetic_fraction: float = Field(1.0, ge=0, le=1)
    """A class never consists of more synthetic images than this share."""
    refresh: float = Field(0.25, ge=0, le=1)
    """Share of the synthetic pool that is drawn anew each epoch."""
    gate_tau: float = Field(0.5, ge=0, lt=1)
    """A synthetic image is kept if a classifier of real images gives its class this probability;
    0 keeps all and trains no such classifier."""
    gate_folds: int = Field(2, ge=2, le=64)
    """Classifiers of the gate, each blind to one of so many parts of the groups."""
    gate_steps: int = Field(600, ge=1)
    """Optimizer steps of each of the gate's classifiers."""
    min_acceptance: float = Field(0.1, ge=0, le=1)
    """Classes of which the gate keeps less than this share are filled by real images instead."""


class ClassifierConfig(Section):
    """The timm classifier that the benchmark trains, and how."""

    name: str = "resnet18"
    pretrained: bool = False
    steps: int = Field(2000, ge=1)
    """Optimizer steps, the same for every arm."""
    batch_size: int = Field(128, ge=2)
    learning_rate: float = Field(2e-3, gt=0)
    """Peak of a linear warm-up and cosine decay (AdamW)."""
    weight_decay: float = Field(0.05, ge=0)
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    augment: Literal["none", "basic", "randaugment"] = "basic"
    """``basic``: small rotation, shift, scale and light changes; ``randaugment``: two random
    operations an image, stronger; neither flips."""
    compile: bool = False
    """``torch.compile`` for the classifier; pays on GPUs and for long trainings."""
    deterministic: bool = False
    """As for the GAN: on a GPU the same bits each time, at some speed."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: str = "auto"
    num_workers: int = Field(0, ge=0)


CLASSIFIER_RUNNING_KEYS = ("num_workers", "deterministic")
"""Keys of ``ClassifierConfig`` that say how a training is run, not what comes of it."""


class BenchmarkConfig(Section):
    """Which arms, how often."""

    arms: tuple[str, ...] = (
        "real",
        "oversample",
        "class_balanced_loss",
        "logit_adjustment",
        "ldam_drw",
        "synthetic",
        # The best on GTSRB (docs/benchmark.md), beside its control.
        "oversample_tenth_relit+ldam_drw",
        "synthetic_tenth_relit+ldam_drw",
    )
    seeds: int = Field(3, ge=1)
    """Number of paired repetitions; seed s uses the same initial weights in every arm,
    but for the last layer of LDAM."""
    first_seed: int = Field(0, ge=0, lt=2**31)
    extractor_steps: int = Field(800, ge=1)
    """Optimizer steps of the classifier behind Frechet distance and label agreement."""
    cas_steps: int | None = Field(None, ge=0)
    """Optimizer steps of the classifier that is trained on samples alone, for the classification
    accuracy score; None takes ``classifier.steps``, 0 leaves the score out."""
    inception_weights: str | None = None
    """File of Inception-v3's weights; None takes the one in torch's cache, where there is one."""
    inception_images: int = Field(2500, ge=2)
    """Images a side, at most, of the Inception distances; Inception is slow on CPUs."""
    budget: Literal["quick", "standard", "thorough"] | None = None
    """The budget that ``--budget`` asked for; the report says what it leaves out."""
    bootstrap_resamples: int = Field(2000, ge=100)


class Config(Section):
    """Everything; each command reads the sections that concern it."""

    data: DataConfig = DataConfig()
    gan: GanConfig = GanConfig()
    balance: BalanceConfig = BalanceConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
