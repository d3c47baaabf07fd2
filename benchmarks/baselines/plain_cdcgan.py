"""The textbook conditional DCGAN (Radford et al. 2016 with the labels of Mirza & Osindero 2014).

A label embedding beside z in the generator and as a fourth image plane in the discriminator,
batch norm in both, BCE, Adam 2e-4 / 0.5, the data's own class frequencies. It runs in the same
fast loop as signforge's GAN (bf16, channels_last, fused Adam, images on the device), so that a
comparison by time compares recipes.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.method import NetworkSampler, SteppedMethod
from signforge.data.images import LabeledImages
from signforge.device import autocast
from signforge.gan.batches import BatchSource
from signforge.gan.networks import channels_by_resolution

Z_DIM = 100
BATCH_SIZE = 64
LABEL_DIM = 50


class Generator(nn.Module):
    """z float (N, 100), labels int64 (N,) -> images float (N, 3, R, R) in -1..1."""

    def __init__(self, *, num_classes: int, resolution: int, base_channels: int = 64) -> None:
        super().__init__()
        channels = list(channels_by_resolution(resolution, base_channels).values())
        self.embedding = nn.Embedding(num_classes, LABEL_DIM)
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(Z_DIM + LABEL_DIM, channels[0], 4, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(),
        ]
        for c_in, c_out in pairwise(channels):
            layers += [
                nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.ReLU(),
            ]
        layers.append(nn.ConvTranspose2d(channels[-1], 3, 4, stride=2, padding=1))
        self.layers = nn.Sequential(*layers)
        self.apply(initialise)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        both = torch.cat([z, self.embedding(labels)], dim=1)[:, :, None, None]
        return torch.tanh(self.layers(both).float())


class Discriminator(nn.Module):
    """images float (N, 3, R, R), labels int64 (N,) -> logits float (N,)."""

    def __init__(self, *, num_classes: int, resolution: int, base_channels: int = 64) -> None:
        super().__init__()
        channels = list(reversed(channels_by_resolution(resolution, base_channels).values()))
        self.embedding = nn.Embedding(num_classes, resolution**2)
        layers: list[nn.Module] = [nn.Conv2d(4, channels[0], 4, stride=2, padding=1)]
        for c_in, c_out in pairwise(channels):
            layers += [
                nn.LeakyReLU(0.2),
                nn.Conv2d(c_in, c_out, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
            ]
        layers += [nn.LeakyReLU(0.2), nn.Conv2d(channels[-1], 1, 4)]
        self.layers = nn.Sequential(*layers)
        self.apply(initialise)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        plane = self.embedding(labels).view(-1, 1, *images.shape[2:])
        both = torch.cat([images, plane], dim=1).contiguous(memory_format=torch.channels_last)
        return self.layers(both).float().flatten()


def initialise(module: nn.Module) -> None:
    """DCGAN's: convolutions N(0, 0.02), batch-norm gains N(1, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class PlainConditionalDcgan(SteppedMethod):
    """The loop of the PyTorch DCGAN tutorial, with labels."""

    def __init__(
        self, train: LabeledImages, *, seed: int, device: torch.device, batch_size: int = BATCH_SIZE
    ) -> None:
        super().__init__()
        self.train, self.device, self.batch_size = train, device, batch_size
        size = {"num_classes": train.num_classes, "resolution": train.resolution}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.generator = Generator(**size)
            self.discriminator = Discriminator(**size)
        for network in (self.generator, self.discriminator):
            network.to(device).to(memory_format=torch.channels_last)
        self.generator_optimizer = adam(self.generator)
        self.discriminator_optimizer = adam(self.discriminator)
        self.batches = BatchSource(train, "empirical", device)
        self.rng = torch.Generator(device).manual_seed(seed)

    def step(self) -> int:
        n = self.batch_size
        real, labels = self.batches.batch(n, self.rng)
        fake_labels = self.batches.labels(n, self.rng)
        z = torch.randn((n, Z_DIM), generator=self.rng, device=self.device)
        ones = torch.ones(n, device=self.device)
        with autocast(self.device, "auto"):
            fake = self.generator(z, fake_labels)
            loss = bce(self.discriminator(real, labels), ones) + bce(
                self.discriminator(fake.detach(), fake_labels), 1 - ones
            )
        self.discriminator_optimizer.zero_grad()
        loss.backward()
        self.discriminator_optimizer.step()
        with autocast(self.device, "auto"):
            loss = bce(self.discriminator(fake, fake_labels), ones)
        self.generator_optimizer.zero_grad()
        loss.backward()
        self.generator_optimizer.step()
        return n

    def sampler(self) -> NetworkSampler:
        return NetworkSampler(
            self.generator,
            z_dim=Z_DIM,
            class_names=self.train.class_names,
            resolution=self.train.resolution,
        )


def bce(logits: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, target)


def adam(network: nn.Module) -> torch.optim.Adam:
    """DCGAN's settings."""
    return torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)
