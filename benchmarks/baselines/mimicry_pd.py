"""torch-mimicry 0.1.16: cGAN with projection discriminator at 32x32, with its CIFAR-10 settings.

Its networks and its own ``train_step`` run unchanged, in the order of its ``Trainer.train``:
batch 64, Adam 2e-4 / (0.0, 0.9), hinge loss, 5 discriminator updates to one of the generator,
learning rates linear to zero at 100,000 steps, fp32, a DataLoader. Left out are the Trainer's
TensorBoard summaries, images and checkpoints. Not a dependency of signforge:
``pip install --no-deps torch-mimicry==0.1.16``.
"""

import importlib
import importlib.util
import sys
import types
from typing import Any

import torch
from torch.utils.data import DataLoader

from baselines.method import FloatImages, NetworkSampler, SteppedMethod, endless
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError

BATCH_SIZE = 64
N_DIS = 5
NUM_STEPS = 100_000
LEARNING_RATE = 2e-4
BETAS = (0.0, 0.9)
RESOLUTION = 32


def import_mimicry(module: str) -> Any:
    """``torch_mimicry.<module>`` without the package's own ``__init__`` files.

    Those import TensorFlow, TensorBoard, scikit-image, and ``torch._six``, which torch 2 no
    longer has, so ``import torch_mimicry`` fails on any recent torch; networks, losses and
    training steps need none of it.

    Raises SignforgeError where the package is not installed.
    """
    if "torch_mimicry" not in sys.modules:
        spec = importlib.util.find_spec("torch_mimicry")
        if spec is None or not spec.submodule_search_locations:
            raise SignforgeError(
                "torch-mimicry is not installed: pip install --no-deps torch-mimicry==0.1.16, or "
                "leave the mimicry comparison out."
            )
        root = spec.submodule_search_locations[0]
        for name, folder in ((spec.name, root), (f"{spec.name}.training", f"{root}/training")):
            package = types.ModuleType(name)
            package.__path__ = [folder]
            sys.modules[name] = package
    return importlib.import_module(f"torch_mimicry.{module}")


class MimicryPd(SteppedMethod):
    def __init__(
        self,
        train: LabeledImages,
        *,
        seed: int,
        device: torch.device,
        batch_size: int = BATCH_SIZE,
        n_dis: int = N_DIS,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        nets = import_mimicry("nets.cgan_pd.cgan_pd_32")
        self.metric_log = import_mimicry("training.metric_log")
        scheduler = import_mimicry("training.scheduler")
        if train.resolution != RESOLUTION:
            raise SignforgeError(
                f"torch-mimicry's network draws {RESOLUTION} pixels, not {train.resolution}."
            )
        self.train, self.device, self.n_dis = train, device, n_dis
        torch.manual_seed(seed)  # its steps draw from the global generator
        self.generator = nets.CGANPDGenerator32(num_classes=train.num_classes).to(device)
        self.discriminator = nets.CGANPDDiscriminator32(num_classes=train.num_classes).to(device)
        self.generator_optimizer = torch.optim.Adam(
            self.generator.parameters(), LEARNING_RATE, betas=BETAS
        )
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), LEARNING_RATE, betas=BETAS
        )
        self.scheduler = scheduler.LRScheduler(
            lr_decay="linear",
            optD=self.discriminator_optimizer,
            optG=self.generator_optimizer,
            num_steps=NUM_STEPS,
        )
        self.global_step = 0
        self.batches = endless(
            DataLoader(
                FloatImages(train),
                batch_size=batch_size,
                shuffle=True,
                drop_last=True,
                num_workers=num_workers,
            )
        )

    def step(self) -> int:
        """``n_dis`` discriminator updates and one generator update."""
        log, seen = self.metric_log.MetricLog(), 0
        batch: Any = None
        for _ in range(self.n_dis):
            images, labels = next(self.batches)
            batch = (images.to(self.device), labels.to(self.device))
            log = self.discriminator.train_step(
                real_batch=batch,
                netG=self.generator,
                optD=self.discriminator_optimizer,
                log_data=log,
                global_step=self.global_step,
                device=self.device,
                scaler=None,
            )
            seen += len(images)
        log = self.generator.train_step(
            real_batch=batch,
            netD=self.discriminator,
            optG=self.generator_optimizer,
            log_data=log,
            global_step=self.global_step,
            device=self.device,
            scaler=None,
        )
        self.global_step += 1
        self.scheduler.step(log_data=log, global_step=self.global_step)
        return seen

    def sampler(self) -> NetworkSampler:
        return NetworkSampler(
            self.generator,
            z_dim=self.generator.nz,
            class_names=self.train.class_names,
            resolution=RESOLUTION,
        )
