"""A small classifier of the real training images that tells the generator which class it missed.

The projection discriminator learns the classes only as far as they help to tell real from fake,
and mixes up those that differ in a digit. A classifier trained first, then frozen, adds to the
generator's loss the cross-entropy of the wanted class, but only above a margin: once a fake is
recognised about as well as a real image, it gains nothing from becoming more typical (the margin
does what the hinge of ReACGAN does, Kang et al. 2021, section 4.2). It looks at fakes as it looked
at real images, each in another light and place at every step: a frozen classifier of the fakes as
they are is soon content with signs that no other classifier takes for their class.
"""

import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from signforge.config import GanConfig
from signforge.data.images import LabeledImages
from signforge.device import autocast, resolve_device
from signforge.gan.augment import diff_augment
from signforge.gan.batches import BatchSource
from signforge.gan.distributed import Share
from signforge.progress import Track, no_progress
from signforge.seeds import derive_seed

CHANNELS = 32
BATCH_SIZE = 128
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.05
REAL_AUGMENT = ("color", "translation", "geometric")
FAKE_AUGMENT = ("color", "translation")
"""Without ``geometric``, whose gradient has no deterministic algorithm on a GPU."""
SEED_STREAM = 1
"""Keeps the guide's random numbers apart from those of the GAN's steps."""
STOP_STEPS = 20


class GuideClassifier(nn.Module):
    """images float (N, 3, resolution, resolution) in -1..1 -> class logits float (N, C)."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        widths = [3, CHANNELS, 2 * CHANNELS, 4 * CHANNELS]
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(widths):
            layers += [
                nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.LeakyReLU(0.2),
            ]
        layers += [
            nn.Conv2d(widths[-1], widths[-1], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[-1]),
            nn.LeakyReLU(0.2),
        ]
        self.trunk = nn.Sequential(*layers)
        self.linear = nn.Linear(widths[-1] * 4, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.trunk(images.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.linear(quarters(maps.float()).flatten(1))
        return logits.float()


def quarters(maps: Tensor) -> Tensor:
    """The mean of each quarter: float (N, C, S, S), S a power of two -> (N, C, 2, 2).

    As ``F.adaptive_avg_pool2d``, whose gradient has no deterministic algorithm on a GPU.
    """
    side = maps.shape[-1]
    return maps.expand(-1, -1, 2, 2) if side == 1 else F.avg_pool2d(maps, side // 2)


def build_guide(config: GanConfig, *, num_classes: int, device: torch.device) -> GuideClassifier:
    """A fresh, frozen guide, initialised from ``config.seed`` without touching global state."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(config.seed, SEED_STREAM))
        guide = GuideClassifier(num_classes=num_classes)
    guide.to(device)
    guide.to(memory_format=torch.channels_last)
    return guide.eval().requires_grad_(False)


def train_guide(
    guide: nn.Module,
    batches: BatchSource,
    config: GanConfig,
    should_stop: Callable[[], bool] = lambda: False,
    track: Track = no_progress,
) -> bool:
    """Trains for ``config.guide_steps`` steps (AdamW, one-cycle learning rate), then freezes.

    False if ``should_stop``, asked every ``STOP_STEPS`` steps, ended it; the guide is then of no
    use.
    """
    optimizer = torch.optim.AdamW(
        guide.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=max(config.guide_steps, 2)
    )
    guide.train().requires_grad_(True)
    for step in track(range(config.guide_steps), "guide", config.guide_steps):
        if step % STOP_STEPS == STOP_STEPS - 1 and should_stop():
            return False
        seed = derive_seed(config.seed, SEED_STREAM, step)
        rng = torch.Generator(batches.device).manual_seed(seed)
        images, labels = batches.batch(BATCH_SIZE, rng)
        with autocast(batches.device, config.precision):
            logits = guide(diff_augment(images, REAL_AUGMENT, rng))
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    guide.eval().requires_grad_(False)
    return True


def measure_guide_seconds(config: GanConfig, train: LabeledImages, steps: int = 8) -> float:
    """What ``train_guide`` would take on this machine, from ``steps`` timed steps after two."""
    device = resolve_device(config.device)
    guide = build_guide(config, num_classes=train.num_classes, device=device)
    batches = BatchSource(train, config.class_prior, device)
    for count in (2, steps):
        started = time.perf_counter()
        train_guide(guide, batches, config.model_copy(update={"guide_steps": count}))
        guide.linear.bias.sum().item()  # waits for the device
    return config.guide_steps * (time.perf_counter() - started) / steps


def guide_view(fakes: Tensor, rng: torch.Generator, share: Share) -> Tensor:
    """What the guide gets to see of float (N, 3, H, W) fakes in -1..1, ``share`` of a batch."""
    return diff_augment(fakes, FAKE_AUGMENT, rng, share=share)


def guide_loss(logits: Tensor, labels: Tensor, margin: float) -> Tensor:
    """mean(max(cross-entropy - margin, 0)): (N, C), (N,) -> scalar, in nats."""
    return F.relu(F.cross_entropy(logits, labels, reduction="none") - margin).mean()
