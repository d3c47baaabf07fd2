"""Conditional DCGAN generator and projection discriminator.

DCGAN's shape (Radford et al. 2016: strided convolutions, no pooling) with class-conditional
batch norm in the generator (de Vries et al. 2017) and a projection on the class embedding in the
discriminator (Miyato & Koyama 2018, eq. 3). The discriminator is kept smooth by a gradient
penalty (losses.py) rather than by spectral norm: see benchmarks/gan_recipe.md.
"""

import math
from collections.abc import Iterable
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from signforge.errors import SignforgeError

LOWEST_RESOLUTION = 4
UNKNOWN_CLASS = -1
"""The label of an image whose class the discriminator is not told."""
FEATURE_GAIN = 4.0
"""Makes the features that the class embedding is projected on as large as a sum over the 4x4 map
would be; without it the conditional term starts too small to teach the classes apart."""


def channels_by_resolution(resolution: int, base_channels: int) -> dict[int, int]:
    """Feature channels at 4, 8, ... resolution / 2: ``base_channels`` at the highest, doubling
    with every halving up to 8 times.

    Raises SignforgeError unless resolution is a power of two of at least 8.
    """
    halvings = int(math.log2(max(resolution, 1) / LOWEST_RESOLUTION))
    if halvings < 1 or LOWEST_RESOLUTION * 2**halvings != resolution:
        raise SignforgeError(
            f"The GAN needs a resolution that is a power of two of at least 8, not {resolution}; "
            "set data.resolution to 32, 64 or 128."
        )
    return {
        resolution // 2**level: min(base_channels * 2 ** (level - 1), base_channels * 8)
        for level in range(halvings, 0, -1)
    }


class ConditionalBatchNorm2d(nn.Module):
    """Batch norm whose gain and bias are linear in a condition vector.

    x float (N, channels, H, W), condition float (N, condition_dim) -> like x.
    """

    def __init__(self, channels: int, condition_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.gain = nn.Linear(condition_dim, channels)
        self.bias = nn.Linear(condition_dim, channels)
        for layer in (self.gain, self.bias):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        gain = 1 + self.gain(condition)[:, :, None, None]
        bias = self.bias(condition)[:, :, None, None]
        normalised: Tensor = self.norm(x)
        return torch.addcmul(bias.to(normalised.dtype), normalised, gain.to(normalised.dtype))


class ConditionalGenerator(nn.Module):
    """z float (N, z_dim), labels int64 (N,) -> images float (N, 3, resolution, resolution), -1..1.

    Both the 4x4 seed and the batch norms see latent and class embedding, so style can vary
    within a class at every scale while the convolutions are shared by all classes. Layers below
    ``class_from_resolution`` see the latent alone, as in the generator of Khorram et al. (2024,
    "Taming the tail in class-conditional GANs").
    """

    class_strength: Tensor
    """float scalar in 0..1 that scales the class embedding; 1 but for a warm-up in training."""

    def __init__(
        self,
        *,
        num_classes: int,
        resolution: int,
        z_dim: int,
        base_channels: int,
        embedding_dim: int,
        upsample: Literal["transposed", "resize"] = "transposed",
        class_from_resolution: int = LOWEST_RESOLUTION,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.resolution = resolution
        self.z_dim = z_dim
        by_resolution = channels_by_resolution(resolution, base_channels)
        if class_from_resolution not in by_resolution:
            sides = ", ".join(map(str, by_resolution))
            raise SignforgeError(
                f"gan.class_from_resolution is {class_from_resolution}; a generator of "
                f"{resolution}x{resolution} images has layers at {sides}."
            )
        self.sees_class = [side >= class_from_resolution for side in by_resolution]
        channels = list(by_resolution.values())
        condition_dim = z_dim + embedding_dim
        self.embedding = nn.Embedding(num_classes, embedding_dim)
        self.seed = nn.Linear(condition_dim, channels[0] * LOWEST_RESOLUTION**2)
        self.norms = nn.ModuleList(ConditionalBatchNorm2d(c, condition_dim) for c in channels)
        build_upsample = _transposed if upsample == "transposed" else _resize
        self.upsamples = nn.ModuleList(
            build_upsample(c_in, c_out)
            for c_in, c_out in zip(channels, [*channels[1:], channels[-1]], strict=True)
        )
        self.last_norm = nn.BatchNorm2d(channels[-1])
        self.to_rgb = nn.Conv2d(channels[-1], 3, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) or module is self.seed:
                nn.init.orthogonal_(module.weight)
        self.register_buffer("class_strength", torch.ones(()), persistent=False)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        embedded = self._embed(labels) * self.class_strength
        with_class = torch.cat([z, embedded], dim=1)
        without = torch.cat([z, torch.zeros_like(embedded)], dim=1)
        conditions = [with_class if sees else without for sees in self.sees_class]
        x = self.seed(conditions[0]).unflatten(1, (-1, LOWEST_RESOLUTION, LOWEST_RESOLUTION))
        x = x.contiguous(memory_format=torch.channels_last)
        for norm, upsample, condition in zip(self.norms, self.upsamples, conditions, strict=True):
            x = upsample(F.relu(norm(x, condition), inplace=True))
        return torch.tanh(self.to_rgb(F.relu(self.last_norm(x), inplace=True)).float())

    def class_norm_parameters(self) -> list[Tensor]:
        """What each class alone adds to every conditional norm: gains and biases, (C, channels)."""
        classes = self._embed(torch.arange(self.num_classes, device=self.embedding.weight.device))
        norms = cast(Iterable[ConditionalBatchNorm2d], self.norms)
        layers = [layer for norm in norms for layer in (norm.gain, norm.bias)]
        return [classes @ layer.weight[:, self.z_dim :].T for layer in layers]

    def _embed(self, labels: Tensor) -> Tensor:
        embedded: Tensor = F.normalize(self.embedding(labels), dim=1)
        return embedded * math.sqrt(self.embedding.embedding_dim)


def _transposed(c_in: int, c_out: int) -> nn.Module:
    """Kernel 4 at stride 2 covers every output pixel equally often: no checkerboard by design."""
    return nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False)


def _resize(c_in: int, c_out: int) -> nn.Module:
    return nn.Sequential(
        nn.Upsample(scale_factor=2), nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    )


class ProjectionDiscriminator(nn.Module):
    """images float (N, 3, resolution, resolution), labels int64 (N,) -> logits float (N,).

    An image whose label is ``UNKNOWN_CLASS`` is judged without the projection.

    The last 4x4 map is flattened, not pooled: where a stroke lies is what tells a 3 from an 8. It
    also holds the mean standard deviation within groups of ``stddev_group`` images (Karras et al.
    2018, section 3), so that fakes with too little variety are told by it. N must be a
    multiple of ``stddev_group``.

    spectral_norm: divides every weight by its largest singular value, followed by one power
        iteration (Miyato et al. 2018, algorithm 1) whenever it judges images in training mode; in
        bfloat16 that value has the digits of bfloat16.
    """

    logit_anchors: Tensor
    """float (2,): moving averages of the logits of real and fake images, for LeCam."""
    class_strength: Tensor
    """float scalar in 0..1 that scales the conditional term; 1 but for a warm-up."""

    def __init__(
        self,
        *,
        num_classes: int,
        resolution: int,
        base_channels: int,
        stddev_group: int,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        self.stddev_group = stddev_group
        channels = list(reversed(channels_by_resolution(resolution, base_channels).values()))
        self.downsamples = nn.ModuleList(
            nn.Conv2d(c_in, c_out, 4, stride=2, padding=1)
            for c_in, c_out in zip([3, *channels], channels, strict=False)
        )
        top = channels[-1]
        self.top_channels = top
        self.top = nn.Conv2d(top + 1, top, 3, padding=1)
        self.flat = nn.Linear(top * LOWEST_RESOLUTION**2, top)
        self.linear = nn.Linear(top, 1)
        self.embedding = nn.Embedding(num_classes, top)
        if spectral_norm:
            for layer in (*self.downsamples, self.top, self.flat, self.linear, self.embedding):
                parametrizations.spectral_norm(layer)
        self.register_buffer("logit_anchors", torch.zeros(2))
        self.register_buffer("class_strength", torch.ones(()), persistent=False)

    def forward(
        self, images: Tensor, labels: Tensor, channel_factors: Tensor | None = None
    ) -> Tensor:
        """channel_factors: float (N, ``top_channels``, 1, 1) that scales the channels of the last
        4x4 map, as dropout does."""
        x = images.contiguous(memory_format=torch.channels_last)
        for downsample in self.downsamples:
            x = F.leaky_relu(downsample(x), 0.2, inplace=True)
        if channel_factors is not None:
            x = x * channel_factors.to(x.dtype)
        x = append_group_stddev(x, self.stddev_group)
        x = F.leaky_relu(self.top(x), 0.2, inplace=True)
        features = FEATURE_GAIN * F.leaky_relu(self.flat(x.flatten(1)), 0.2).float()
        unconditional: Tensor = self.linear(features).float().squeeze(1)
        known = labels != UNKNOWN_CLASS
        embedded = self.embedding(labels.clamp(min=0)) * known[:, None]
        conditional: Tensor = (embedded * features).sum(dim=1)
        return unconditional + self.class_strength * conditional


def append_group_stddev(x: Tensor, group: int) -> Tensor:
    """float (N, C, H, W) -> (N, C + 1, H, W): one more channel with, for each run of ``group``
    images, the mean over C, H and W of the standard deviation within the run."""
    n, _, height, width = x.shape
    # torch.var over the runs took 16 % of a training step on two CPU threads.
    groups = x.float().permute(0, 2, 3, 1).reshape(n // group, group, -1)
    variance = (groups - groups.mean(dim=1, keepdim=True)).square().mean(dim=1)
    stddev = (variance + 1e-8).sqrt().mean(dim=1)
    plane = stddev.repeat_interleave(group)[:, None, None, None].expand(n, 1, height, width)
    return torch.cat([x, plane.to(x.dtype)], dim=1)
