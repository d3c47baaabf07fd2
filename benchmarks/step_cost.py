"""What one training step costs: its operation count, what the machine could do at best, and where
the time goes.

Operations are counted by torch's own counter over the real step, double backward included; a
multiplication and an addition are two. The best is a matrix product in the step's precision.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from signforge.config import GanConfig
from signforge.data.images import LabeledImages
from signforge.device import use_bf16
from signforge.gan import step as step_module
from signforge.gan.batches import BatchSource
from signforge.gan.checkpoint import TrainingState
from signforge.gan.ema import ema_decay, ema_update
from signforge.gan.step import build_training_state, gan_step
from signforge.seeds import derive_seed

ASSUMED_KIMG = 100.0
"""Of a run in its middle, for the EMA's decay."""


class OurLoop:
    """signforge's training loop without its records: seed, ``gan_step``, EMA."""

    def __init__(self, config: GanConfig, train: LabeledImages, device: torch.device) -> None:
        self.config, self.device = config, device
        self.state: TrainingState = build_training_state(
            config, num_classes=train.num_classes, resolution=train.resolution, device=device
        )
        self.batches = BatchSource(train, config.class_prior, device)

    def step(self, index: int) -> int:
        """Returns the real images shown; every ``r1_every_steps``-th step has the penalty."""
        config = self.config
        rng = torch.Generator(self.device).manual_seed(derive_seed(config.seed, index))
        with_penalty = index % config.r1_every_steps == 0
        gan_step(self.state, self.batches, config, rng, with_penalty=with_penalty)
        decay = ema_decay(config.batch_size, config.ema_halflife_kimg, ASSUMED_KIMG)
        ema_update(self.state.ema, self.state.generator, decay)
        return config.batch_size


class _FlopCounter(TorchDispatchMode):
    """Adds up torch's own formulas; its FlopCounterMode breaks on ``autograd.grad`` of an input."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **(kwargs or {}), out_val=result))
        return result


def count_flops(function: Callable[[], Any]) -> int:
    """Of all matrix products and convolutions that ``function`` runs, forward and backward."""
    with _FlopCounter() as counter:
        function()
    return counter.flops


def flops_per_image(step: Callable[[int], int], r1_every_steps: int) -> float:
    """A real image's share of one step, the penalty's step weighted by how often it comes.

    step: takes the step number, of which 0 has the penalty and 1 has none unless every has.
    """
    images = step(0)
    with_penalty, without = count_flops(lambda: step(0)), count_flops(lambda: step(1))
    return (with_penalty + (r1_every_steps - 1) * without) / r1_every_steps / images


@dataclass(frozen=True)
class Product:
    """(m, k) times (k, n), ``times`` of them in one forward pass of both networks."""

    m: int
    k: int
    n: int
    times: int = 1

    @property
    def flops(self) -> int:
        return 2 * self.m * self.k * self.n


def square_product(flops: float) -> Product:
    """The square product with about ``flops`` operations, its side a multiple of 64."""
    side = max(64, round((flops / 2) ** (1 / 3) / 64) * 64)
    return Product(side, side, side)


def convolution_products(loop: OurLoop) -> list[Product]:
    """The convolutions of both networks as the products that im2col makes of them."""
    found: dict[Product, int] = {}

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kernel = module.kernel_size[0] * module.kernel_size[1]
        if isinstance(module, nn.ConvTranspose2d):
            pixels, k, n = inputs[0], module.in_channels, module.out_channels * kernel
        else:
            pixels, k, n = output, module.in_channels * kernel, module.out_channels
        key = Product(len(pixels) * pixels.shape[2] * pixels.shape[3], k, n)
        found[key] = found.get(key, 0) + 1

    networks = (loop.state.generator, loop.state.discriminator)
    convolutions = [
        module
        for network in networks
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    with ExitStack() as hooks, torch.no_grad():
        for module in convolutions:
            hooks.callback(module.register_forward_hook(hook).remove)
        n, config = loop.config.batch_size, loop.config
        labels = torch.zeros(n, dtype=torch.int64, device=loop.device)
        images = networks[0](torch.zeros((n, config.z_dim), device=loop.device), labels)
        networks[1](images, labels)
    return [Product(p.m, p.k, p.n, times) for p, times in found.items()]


class ProductTimer:
    """Operations per second of ``products`` one after another, in the precision of the step."""

    def __init__(self, products: list[Product], device: torch.device, precision: str) -> None:
        dtype = torch.bfloat16 if use_bf16(device, precision) else torch.float32
        self.products, self.device = products, device
        self.operands = [
            (
                torch.randn((p.m, p.k), device=device).to(dtype),
                torch.randn((p.k, p.n), device=device).to(dtype),
                torch.empty((p.m, p.n), device=device, dtype=dtype),
            )
            for p in products
        ]

    def flops_per_second(self, seconds: float) -> float:
        """Over at least ``seconds``, after one pass that does not count."""
        self._pass()
        synchronise(self.device)
        done, started, elapsed = 0, time.perf_counter(), 0.0
        while elapsed < seconds or done == 0:
            done += self._pass()
            synchronise(self.device)
            elapsed = time.perf_counter() - started
        return done / elapsed

    def _pass(self) -> int:
        for product, (a, b, out) in zip(self.products, self.operands, strict=True):
            for _ in range(product.times):
                torch.mm(a, b, out=out)
        return sum(product.flops * product.times for product in self.products)


def synchronise(device: torch.device) -> None:
    """Waits for a GPU; a CPU is never ahead."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def profile_steps(loop: OurLoop, steps: int, rows: int = 20) -> tuple[str, dict[str, float]]:
    """torch.profiler's table of ops by self time, and seconds a step by phase.

    Phases do not overlap; ``other`` is the rest of the step: losses, conversions, bookkeeping.
    On a GPU the host waits after every phase, so that its kernels count where they were asked for.
    """
    loop.step(0)
    activities = [ProfilerActivity.CPU]
    if loop.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    phases: dict[str, float] = {}
    with _phases(loop, phases), profile(activities=activities) as profiler:
        started = time.perf_counter()
        for index in range(steps):
            loop.step(index)
        total = time.perf_counter() - started
    phases["other"] = total - sum(phases.values())
    order = "self_cuda_time_total" if loop.device.type == "cuda" else "self_cpu_time_total"
    table = profiler.key_averages().table(
        sort_by=order, row_limit=rows, max_name_column_width=48, top_level_events_only=False
    )
    return table, {name: seconds / steps for name, seconds in phases.items()}


@contextmanager
def _phases(loop: OurLoop, seconds: dict[str, float]) -> Iterator[None]:
    """Inside, every call of a step's parts adds its time to ``seconds`` under the part's name."""

    running: list[str] = []

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if running:  # a part of a part: its time is counted already
                return function(*args, **kwargs)
            running.append(name)
            synchronise(loop.device)
            started = time.perf_counter()
            with record_function(f"phase: {name}"):
                result = function(*args, **kwargs)
            synchronise(loop.device)
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started
            running.clear()
            return result

        return call

    state, backward = loop.state, torch.Tensor.backward
    next_backward = ["D backward"]

    def named_backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
        name = next_backward[0]
        if name == "D backward":
            next_backward[0] = "R1: second backward"
        timed(name, backward)(loss, *args, **kwargs)

    def before_backward(name: str, update: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            next_backward[0] = name
            return update(*args, **kwargs)

        return call

    discriminator_update = before_backward(
        "G backward, through D", timed("D optimizer", state.discriminator_optimizer.step)
    )
    generator_update = before_backward(
        "D backward", timed("G optimizer", state.generator_optimizer.step)
    )
    replaced = (
        (loop.batches, "batch", "data: real batch"),
        (step_module, "diff_augment", "augmentation"),
        (step_module, "guide_view", "augmentation"),
        *([(state.guide, "forward", "guide forward")] if state.guide is not None else []),
        (state.generator, "forward", "G forward"),
        (state.discriminator, "forward", "D forward"),
        (step_module.losses, "r1_penalty", "R1: gradient of the input"),
    )
    with ExitStack() as patches:
        for target, attribute, name in replaced:
            wrapped = timed(name, getattr(target, attribute))
            patches.enter_context(mock.patch.object(target, attribute, wrapped))
        patches.enter_context(mock.patch.object(torch.Tensor, "backward", named_backward))
        for optimizer, update in (
            (state.discriminator_optimizer, discriminator_update),
            (state.generator_optimizer, generator_update),
        ):
            patches.enter_context(mock.patch.object(optimizer, "step", update))
        ema = timed("EMA", ema_update)
        patches.enter_context(mock.patch(f"{__name__}.ema_update", ema))
        yield
