"""ACGAN (Odena et al. 2017, 1610.09585, equations 1 and 2, networks of appendix A, CIFAR-10).

One-hot class beside z; a discriminator that also names the class, with dropout, and a generator
rewarded for images that it names right. Adam 2e-4 / 0.5, batch 100, no activation noise (one of
the paper's three choices of each). Classes are drawn evenly for fakes, as in the paper; it runs
in the same fast loop as signforge's GAN.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.method import NetworkSampler, SteppedMethod
from baselines.plain_cdcgan import adam, bce, initialise
from signforge.data.images import LabeledImages
from signforge.device import autocast
from signforge.errors import SignforgeError
from signforge.gan.batches import BatchSource

Z_DIM = 100
BATCH_SIZE = 100
RESOLUTION = 32


class Generator(nn.Module):
    """z float (N, 100), labels int64 (N,) -> images float (N, 3, 32, 32) in -1..1."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.linear = nn.Linear(Z_DIM + num_classes, 384 * 4 * 4)
        upsample = {"kernel_size": 5, "stride": 2, "padding": 2, "output_padding": 1}
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.ConvTranspose2d(384, 192, **upsample),
            nn.BatchNorm2d(192),
            nn.ReLU(),
            nn.ConvTranspose2d(192, 96, **upsample),
            nn.BatchNorm2d(96),
            nn.ReLU(),
            nn.ConvTranspose2d(96, 3, **upsample),
        )
        self.apply(initialise)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        one_hot = F.one_hot(labels, self.num_classes).to(z.dtype)
        x = self.linear(torch.cat([z, one_hot], dim=1)).view(-1, 384, 4, 4)
        return torch.tanh(self.layers(x.contiguous(memory_format=torch.channels_last)).float())


class Discriminator(nn.Module):
    """images float (N, 3, 32, 32) -> logits of being real (N,) and of the classes (N, C)."""

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        widths = [3, 16, 32, 64, 128, 256, 512]
        for index, (c_in, c_out) in enumerate(pairwise(widths)):
            layers.append(nn.Conv2d(c_in, c_out, 3, stride=2 - index % 2, padding=1))
            if index > 0:
                layers.append(nn.BatchNorm2d(c_out))
            layers += [nn.LeakyReLU(0.2), nn.Dropout(0.5)]
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(512 * 4 * 4, 1 + num_classes)
        self.apply(initialise)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layers(images.contiguous(memory_format=torch.channels_last))
        logits = self.linear(x.flatten(1)).float()
        return logits[:, 0], logits[:, 1:]


class Acgan(SteppedMethod):
    def __init__(
        self, train: LabeledImages, *, seed: int, device: torch.device, batch_size: int = BATCH_SIZE
    ) -> None:
        super().__init__()
        if train.resolution != RESOLUTION:
            raise SignforgeError(
                f"The ACGAN of the paper draws {RESOLUTION} pixels, not {train.resolution}."
            )
        self.train, self.device, self.batch_size = train, device, batch_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.generator = Generator(num_classes=train.num_classes)
            self.discriminator = Discriminator(num_classes=train.num_classes)
        for network in (self.generator, self.discriminator):
            network.to(device).to(memory_format=torch.channels_last)
        self.generator_optimizer = adam(self.generator)
        self.discriminator_optimizer = adam(self.discriminator)
        self.batches = BatchSource(train, "empirical", device)
        self.rng = torch.Generator(device).manual_seed(seed)

    def step(self) -> int:
        n = self.batch_size
        real, labels = self.batches.batch(n, self.rng)
        fake_labels = torch.randint(
            self.train.num_classes, (n,), generator=self.rng, device=self.device
        )
        z = torch.randn((n, Z_DIM), generator=self.rng, device=self.device)
        ones = torch.ones(n, device=self.device)
        with autocast(self.device, "auto"):
            fake = self.generator(z, fake_labels)
            real_logits, real_classes = self.discriminator(real)
            fake_logits, fake_classes = self.discriminator(fake.detach())
            loss = bce(real_logits, ones) + bce(fake_logits, 1 - ones)
            loss = loss + F.cross_entropy(real_classes, labels)
            loss = loss + F.cross_entropy(fake_classes, fake_labels)
        self.discriminator_optimizer.zero_grad()
        loss.backward()
        self.discriminator_optimizer.step()
        with autocast(self.device, "auto"):
            logits, classes = self.discriminator(fake)
            loss = bce(logits, ones) + F.cross_entropy(classes, fake_labels)
        self.generator_optimizer.zero_grad()
        loss.backward()
        self.generator_optimizer.step()
        return n

    def sampler(self) -> NetworkSampler:
        return NetworkSampler(
            self.generator,
            z_dim=Z_DIM,
            class_names=self.train.class_names,
            resolution=RESOLUTION,
        )
