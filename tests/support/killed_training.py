"""Trains one small GAN in several lives, each of them ended by SIGKILL; a program of its own.

    python killed_training.py RUN WHOLE KILLS SEED PRECISION

trains into WHOLE without interruption and into RUN with KILLS kills, in fp32 or bf16, and prints
as JSON where each life was killed. Every life is a fork of this process, which has torch imported
but never ran a backward pass (autograd's threads do not survive a fork).
"""

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from signforge.config import Config, DataConfig, GanConfig
from signforge.data.images import LabeledImages
from signforge.data.splits import PreparedSplits
from signforge.gan import training
from signforge.gan.checkpoint import list_checkpoints
from signforge.gan.metrics import ProbeValues
from signforge.gan.run import run_training
from signforge.gan.sampler import GanSampler

STEPS, BATCH = 72, 50
MOMENTS = (
    ("gan_step", 1),
    ("ema_update", 1),
    ("fsync", 1),
    ("rename", 1),
    ("fsync", 2),
    ("fsync", 3),
    ("unlink", 1),
    ("fsync", 4),
    ("fsync", 5),
    ("rename", 2),
)
"""The n-th call of what, once the step is reached."""
CONFIG = Config(
    data=DataConfig(source="made", resolution=8),
    gan=GanConfig(
        z_dim=4,
        base_channels=4,
        guide_steps=3,
        embedding_dim=4,
        batch_size=BATCH,
        learning_rate_decay_from_kimg=STEPS * BATCH / 2000,
        augment=("translation",),
        total_kimg=STEPS * BATCH / 1000,
        status_every_kimg=0.22,
        samples_every_kimg=0.9,
        checkpoint_every_kimg=0.15,
        checkpoint_every_minutes=None,
        keep_checkpoints=2,
        probe_every_kimg=0.5,
        device="cpu",
    ),
)


def made_images(n: int, seed: int) -> LabeledImages:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    noise = torch.randint(0, 60, (n, 3, 8, 8), generator=rng)
    return LabeledImages(
        images=(labels.view(-1, 1, 1, 1) * 80 + noise).to(torch.uint8),
        labels=labels,
        groups=torch.arange(n),
        class_names=("a", "b", "c"),
        names=tuple(map(str, range(n))),
        source="made",
    )


def probe(sampler: GanSampler, seen_kimg: float) -> ProbeValues:
    """Anything that depends on every bit of the samples, and has its minimum at no end."""
    mean = float(sampler.sample(torch.arange(3).repeat(8), 1).double().mean())
    return ProbeValues(
        mean / 255, 0.5, 1, (1.0, 0.5, 0.5), abs(seen_kimg - 2) + mean / 99, None, ()
    )


def train(run: Path, config: Config) -> None:
    splits = PreparedSplits(made_images(30, 1), made_images(6, 2), made_images(6, 3))
    run_training(config, splits, run, resume=bool(list_checkpoints(run)), probe=probe)


def kill_at(step: int, name: str, nth: int) -> None:
    """Arms this process: SIGKILL at the ``nth`` call of ``name`` once ``step`` is reached."""
    seeds_from_here = {training.derive_seed(CONFIG.gan.seed, s) for s in range(step, STEPS)}
    reached, calls = False, 0
    real_step = training.gan_step

    def noting_step(state, batches, config, rng, *, with_penalty):  # type: ignore[no-untyped-def]
        nonlocal reached
        reached = reached or rng.initial_seed() in seeds_from_here
        return real_step(state, batches, config, rng, with_penalty=with_penalty)

    def killing(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            nonlocal calls
            calls += reached
            if calls == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return call

    training.gan_step = noting_step
    place = training if hasattr(training, name) else os
    setattr(place, name, killing(getattr(place, name)))


def life(run: Path, config: Config, arm: Callable[[], None]) -> int:
    """Trains in a fork of this process; the signal that ended it, 0 where it came to its end."""
    child = os.fork()
    if child == 0:
        arm()
        train(run, config)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    if os.WEXITSTATUS(status):
        sys.exit(f"training failed with exit code {os.WEXITSTATUS(status)}")
    return 0


def main(run: Path, whole: Path, kills: int, seed: int, precision: str) -> None:
    config = CONFIG.model_copy(
        update={"gan": CONFIG.gan.model_copy(update={"precision": precision})}
    )
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1)])  # imports for a second what each life would import again
    os.fsync = lambda _descriptor: None  # a kill leaves the page cache; waiting only takes time
    rng = random.Random(seed)
    steps = sorted(rng.sample(range(1, STEPS - 10), kills))
    plan = [(step, *MOMENTS[place % len(MOMENTS)]) for place, step in enumerate(steps)]
    for moment in plan:
        ended = life(run, config, lambda moment=moment: kill_at(*moment))  # type: ignore[misc]
        assert ended == signal.SIGKILL, (moment, ended)
    assert life(run, config, lambda: None) == 0
    assert life(whole, config, lambda: None) == 0
    sys.stdout.write(json.dumps(plan))


if __name__ == "__main__":
    _, run, whole, kills, seed, precision = sys.argv
    main(Path(run), Path(whole), int(kills), int(seed), precision)
