"""Labels in, images out: the protocol that the package draws from, and our GAN as one of it."""

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol, Self, runtime_checkable

import torch
from pydantic import model_validator
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from signforge.config import GanConfig, Section
from signforge.device import autocast, deterministic, resolve_device
from signforge.errors import SignforgeError
from signforge.files import move_into_place, sha256, write_atomically
from signforge.gan.hub import CARD_FILE, WEIGHTS_FILE, download_generator, parse_address
from signforge.gan.networks import (
    LOWEST_RESOLUTION,
    ConditionalGenerator,
    channels_by_resolution,
)

SAMPLING_BATCH = 256
NEW_WEIGHTS_FILE = f"{WEIGHTS_FILE}.new"
"""What a generator's weights are called until its card is in place."""


@runtime_checkable
class ClassConditionalSampler(Protocol):
    """Anything that draws images of a class; wrap your own model in these five members.

    ``sample`` takes labels int64 (N,) and returns uint8 (N, 3, resolution, resolution), the same
    images for the same labels and seed. ``fingerprint`` is that of what draws them: another model,
    or another way to draw from it, has another one. Rounding does not count: precision and hardware
    may move a pixel under the same fingerprint.
    """

    @property
    def num_classes(self) -> int: ...
    @property
    def resolution(self) -> int: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def fingerprint(self) -> str: ...
    def sample(self, labels: Tensor, seed: int) -> Tensor: ...


class GeneratorCard(Section):
    """generator.json: all that is needed to sample, and what the generator was made from."""

    format_version: Literal[1] = 1
    gan: GanConfig
    resolution: int
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    """Training images of each class that the GAN saw."""
    train_fingerprint: str
    seen_kimg: float
    """How far training was at this generator: the best that a probe judged, else the last."""
    seconds: float
    """Wall-clock seconds of the whole training, also of what came after this generator."""
    weights_sha256: str

    @model_validator(mode="after")
    def _count_every_class(self) -> Self:
        if len(self.class_counts) != len(self.class_names):
            raise ValueError(
                f"class_counts has {len(self.class_counts)} values for {len(self.class_names)} "
                "class_names"
            )
        return self


class GanSampler:
    """The trained generator as a ClassConditionalSampler.

    truncation: as for ``draw_latents``. Raises SignforgeError where it is not positive and finite.
    """

    def __init__(
        self,
        generator: ConditionalGenerator,
        card: GeneratorCard,
        device: torch.device,
        *,
        truncation: float | None = None,
    ) -> None:
        if truncation is not None and not 0 < truncation < math.inf:
            raise SignforgeError(
                f"The truncation is {truncation}; give a positive number of standard deviations "
                "such as 1, or leave it out."
            )
        generator.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.generator = generator.eval().requires_grad_(False)
        self.card = card
        self.device = device
        self.truncation = None if truncation is None else float(truncation)

    @property
    def num_classes(self) -> int:
        return len(self.card.class_names)

    @property
    def resolution(self) -> int:
        return self.card.resolution

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.card.class_names

    @property
    def fingerprint(self) -> str:
        if self.truncation is None:
            return self.card.weights_sha256
        return sha256(f"{self.card.weights_sha256} truncated at {self.truncation}".encode())

    @torch.no_grad()
    def sample(self, labels: Tensor, seed: int) -> Tensor:
        """Images of the given classes.

        labels: int64 (N,) -> uint8 (N, 3, resolution, resolution) on the CPU. All latents come
        from one generator seeded with ``seed`` on the CPU, so every device draws the same z. The
        precision is that of the training; bf16 halves the time and moves pixels by 0.2 of 255
        on average.

        Raises SignforgeError for a label that is not a class.
        """
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= self.num_classes):
            raise SignforgeError(
                f"Labels must lie in 0..{self.num_classes - 1}, got "
                f"{int(labels.min())}..{int(labels.max())}."
            )
        z = draw_latents(len(labels), self.generator.z_dim, seed, truncation=self.truncation)
        images = torch.empty((len(labels), 3, self.resolution, self.resolution), dtype=torch.uint8)
        for start in range(0, len(labels), SAMPLING_BATCH):
            rows = slice(start, start + SAMPLING_BATCH)
            same_bits = deterministic(self.device.type == "cuda")
            with same_bits, autocast(self.device, self.card.gan.precision):
                fakes = self.generator(z[rows].to(self.device), labels[rows].to(self.device))
            images[rows] = to_uint8(fakes).cpu()
        return images


def draw_latents(count: int, z_dim: int, seed: int, *, truncation: float | None = None) -> Tensor:
    """Standard normal latents, float32 (count, z_dim), the same for the same arguments.

    truncation: every component of a larger magnitude is drawn anew until it is none (the
        truncation trick of Brock et al. 2019, section 3.1); the others stay. Samples are then more
        typical and less varied.
    """
    rng = torch.Generator().manual_seed(seed)
    z = torch.randn((count, z_dim), generator=rng)
    if truncation is None:
        return z
    # What comes of drawing until it fits has the normal law cut off at both ends: one draw of
    # that, by its quantiles, ends for any threshold.
    uniform = torch.rand(z.shape, generator=rng, dtype=torch.float64)
    share_within = math.erf(truncation / math.sqrt(2))
    redrawn = math.sqrt(2) * torch.erfinv((2 * uniform - 1) * share_within)
    return torch.where(z.abs() > truncation, redrawn.float().clamp(-truncation, truncation), z)


def to_uint8(images: Tensor) -> Tensor:
    """float -1..1 -> uint8 0..255, rounded."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 -1..1."""
    return images.float() / 127.5 - 1


def build_generator(
    config: GanConfig, *, num_classes: int, resolution: int
) -> ConditionalGenerator:
    """The generator that ``config`` describes, freshly initialised."""
    return ConditionalGenerator(
        num_classes=num_classes,
        resolution=resolution,
        z_dim=config.z_dim,
        base_channels=config.base_channels,
        embedding_dim=config.embedding_dim,
        upsample=config.upsample,
        class_from_resolution=config.class_from_resolution,
    )


def save_sampler(
    run: Path,
    generator: ConditionalGenerator,
    card: GeneratorCard,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes generator.safetensors and generator.json, which vouches for it by hash.

    Two files cannot be replaced in one step. So the weights come under another name first, then
    the card, then the weights get their name: ``read_generator`` finds the pair that belongs
    together after a kill at any moment, the old one before the card was replaced, else the new.

    dtype: of the stored weights; ``torch.bfloat16`` halves the file. They compute in float32.
    Raises SignforgeError where a file cannot be written; one of the two pairs is then there too.
    """
    tensors = {
        key: (value.to(dtype) if value.is_floating_point() else value).contiguous().cpu()
        for key, value in generator.state_dict().items()
    }
    weights = save_tensors(tensors)
    card = card.model_copy(update={"weights_sha256": sha256(weights)})
    _finish_interrupted_save(run)
    write_atomically(run / NEW_WEIGHTS_FILE, weights)
    write_atomically(run / CARD_FILE, card.model_dump_json(indent=2).encode())
    move_into_place(run / NEW_WEIGHTS_FILE, run / WEIGHTS_FILE)


def _finish_interrupted_save(run: Path) -> None:
    """Else the next save would overwrite the only weights that the card vouches for."""
    with suppress(
        OSError, ValueError, LookupError, TypeError, RecursionError
    ):  # no card, or a damaged one
        vouched = json.loads((run / CARD_FILE).read_text(encoding="utf-8"))["weights_sha256"]
        if sha256((run / NEW_WEIGHTS_FILE).read_bytes()) == vouched:
            move_into_place(run / NEW_WEIGHTS_FILE, run / WEIGHTS_FILE)


def read_generator(run: Path) -> tuple[GeneratorCard, dict[str, bytes]]:
    """The card, and the content of generator.json and generator.safetensors by these names.

    Raises SignforgeError where the folder has no such files or they do not fit together.
    """
    card_path, weights_path = run / CARD_FILE, run / WEIGHTS_FILE
    if not card_path.is_file():
        raise SignforgeError(
            f"{run} holds no generator.json; give the folder that `signforge train-cgan` wrote."
        )
    try:
        content = card_path.read_bytes()
        card = GeneratorCard.model_validate(json.loads(content.decode("utf-8")))
        with suppress(FileNotFoundError):
            weights = (run / NEW_WEIGHTS_FILE).read_bytes()
            if sha256(weights) == card.weights_sha256:
                return card, {CARD_FILE: content, WEIGHTS_FILE: weights}
        weights = weights_path.read_bytes()
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise SignforgeError(f"{card_path} or its weights cannot be read: {reason}") from None
    if sha256(weights) != card.weights_sha256:
        raise SignforgeError(
            f"{weights_path} is not the file that generator.json describes (SHA-256 differs); "
            "restore it, or train again."
        )
    return card, {CARD_FILE: content, WEIGHTS_FILE: weights}


def load_sampler(
    run: str | os.PathLike[str], device: str = "auto", *, truncation: float | None = None
) -> GanSampler:
    """The generator of a run directory, ready to sample.

    run: a folder, or ``hf://OWNER/NAME`` or ``hf://OWNER/NAME@REVISION`` on the Hugging Face Hub
        (needs ``signforge[hub]``).
    truncation: standard deviations beyond which latents are drawn anew, see ``draw_latents``; None
        draws them in full.

    Raises SignforgeError for a truncation that is not positive and where the directory holds no
    finished generator, or its files do not fit together: nothing in it is trusted, and nothing
    in it can run code. Raises it as ``download_generator`` does for an address on the Hub.
    """
    address = parse_address(run)
    run = Path(run) if address is None else download_generator(address)
    card, files = read_generator(run)
    try:
        tensors = load_tensors(files[WEIGHTS_FILE])
        _require_enough(card, tensors)
        generator = build_generator(
            card.gan, num_classes=len(card.class_names), resolution=card.resolution
        )
        generator.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, OverflowError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise SignforgeError(
            f"{run / WEIGHTS_FILE} does not fit generator.json: {first_line}"
        ) from None
    return GanSampler(generator, card, resolve_device(device), truncation=truncation)


def _require_enough(card: GeneratorCard, tensors: Mapping[str, Tensor]) -> None:
    """Raises RuntimeError where the networks of ``card`` hold more numbers than ``tensors``.

    To be asked before they are built: a card of a few bytes may describe networks of terabytes.
    """
    channels = list(channels_by_resolution(card.resolution, card.gan.base_channels).values())
    condition = card.gan.z_dim + card.gan.embedding_dim
    seed = condition * channels[0] * LOWEST_RESOLUTION**2
    convolutions = sum(9 * c_in * c_out for c_in, c_out in pairwise([*channels, channels[-1]]))
    wanted = seed + convolutions + len(card.class_names) * card.gan.embedding_dim
    held = sum(tensor.numel() for tensor in tensors.values())
    if wanted > held:
        raise RuntimeError(f"its networks have more than {wanted:,} weights, the file {held:,}")
