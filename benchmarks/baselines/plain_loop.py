"""The plainest PyTorch loop of signforge's own networks, for speed: fp32, NCHW, a DataLoader.

Loss, penalty and augmentation are signforge's; what it leaves out is everything that makes a
step fast: bf16, channels_last, fused Adam, images on the device, frozen discriminator weights.
"""

import copy

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from baselines.method import FloatImages, endless
from signforge.config import GanConfig
from signforge.data.images import LabeledImages
from signforge.errors import SignforgeError
from signforge.gan import losses
from signforge.gan import step as step_module
from signforge.gan.distributed import WHOLE
from signforge.gan.step import build_training_state


class _KeepNchw(TorchFunctionMode):
    """The networks ask for channels_last themselves; inside, that request means nothing."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        del types
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.contiguous:
            kwargs.pop("memory_format", None)
        return func(*args, **kwargs)


class PlainLoop:
    """``step`` is one discriminator update and one generator update at ``config.batch_size``."""

    def __init__(
        self,
        config: GanConfig,
        train: LabeledImages,
        device: torch.device,
        *,
        num_workers: int,
        seed: int = 0,
    ) -> None:
        unknown = {
            "gan.lecam_weight": (config.lecam_weight, 0),
            "gan.gsr_weight": (config.gsr_weight, 0),
            "gan.discriminator_dropout": (config.discriminator_dropout, 0),
            "gan.projection_share": (config.projection_share, 1),
        }
        for key, (value, plain) in unknown.items():
            if value != plain:
                raise SignforgeError(
                    f"The plain loop knows no {key} of {value:g}: set it to {plain}, or leave the "
                    "plain arms out."
                )
        self.config, self.device = config, device
        state = build_training_state(
            config.model_copy(update={"compile": False}),
            num_classes=train.num_classes,
            resolution=train.resolution,
            device=device,
        )
        self.guide = _plain(state.guide) if state.guide is not None else None
        self.generator = _plain(state.generator)
        self.discriminator = _plain(state.discriminator)
        betas = (config.adam_beta1, config.adam_beta2)
        self.generator_optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=config.generator_learning_rate, betas=betas
        )
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), lr=config.discriminator_learning_rate, betas=betas
        )
        self.rng = torch.Generator(device).manual_seed(seed)
        order = torch.Generator().manual_seed(seed)
        self.batches = endless(
            DataLoader(
                FloatImages(train),
                batch_size=config.batch_size,
                shuffle=True,
                drop_last=True,
                num_workers=num_workers,
                generator=order,
            )
        )

    def step(self, index: int) -> int:
        """Returns the real images shown; every ``r1_every_steps``-th has the penalty."""
        config = self.config
        real, labels = next(self.batches)
        real, labels = real.to(self.device), labels.to(self.device)
        with _KeepNchw():
            with torch.set_grad_enabled(not config.fresh_fakes):
                fake = self._draw(labels)
            real_seen = step_module.augment(real, config, self.rng)
            fake_seen = step_module.augment(fake.detach(), config, self.rng)
            real_logits = self.discriminator(real_seen, labels)
            fake_logits = self.discriminator(fake_seen, labels)
            loss = losses.adversarial_loss_of_discriminator(config.loss, real_logits, fake_logits)
            if config.r1_gamma > 0 and index % config.r1_every_steps == 0:
                penalised = [real_seen, fake_seen] if config.loss == "relativistic" else [real_seen]
                for images in penalised:
                    inputs = images.detach().requires_grad_(True)
                    penalty = losses.r1_penalty(self.discriminator(inputs, labels), inputs)
                    loss = loss + config.r1_gamma * config.r1_every_steps * penalty
            self.discriminator_optimizer.zero_grad()
            loss.backward()
            self.discriminator_optimizer.step()

            if config.fresh_fakes:
                fake = self._draw(labels)
            fake_seen = step_module.augment(fake, config, self.rng)
            logits = self.discriminator(fake_seen, labels)
            real_logits = None
            if config.loss == "relativistic":
                real_seen = step_module.augment(real, config, self.rng)
                real_logits = self.discriminator(real_seen, labels)
            loss = losses.adversarial_loss_of_generator(config.loss, logits, real_logits)
            if self.guide is not None:
                guessed = self.guide(step_module.guide_view(fake, self.rng, WHOLE))
                missed = step_module.guide_loss(guessed, labels, config.guide_margin)
                loss = loss + config.guide_weight * missed
            self.generator_optimizer.zero_grad()
            loss.backward()
            self.generator_optimizer.step()
        return len(real)

    def _draw(self, labels: Tensor) -> Tensor:
        shape = (len(labels), self.config.z_dim)
        z = torch.randn(shape, generator=self.rng, device=self.device)
        return self.generator(z, labels)


def _plain(network: nn.Module) -> nn.Module:
    """A copy with its weights in PyTorch's default layout."""
    return copy.deepcopy(network).to(memory_format=torch.contiguous_format)
