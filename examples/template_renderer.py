"""A sampler that is no GAN: each class has a template, which is drawn in ever different light.

    python examples/template_renderer.py

Whatever has these five members can fill up a data set; `check_sampler` says which one is wrong.
"""

import hashlib

import torch

from signforge import DataConfig, SyntheticBalancedDataset, load_prepared_splits
from signforge.testing import check_sampler


class TemplateRenderer:
    """templates: uint8 (C, 3, R, R), one a class; implements ClassConditionalSampler."""

    def __init__(self, templates: torch.Tensor, class_names: tuple[str, ...]) -> None:
        self.templates, self.class_names = templates, class_names
        self.num_classes, self.resolution = len(templates), templates.shape[-1]
        self.fingerprint = hashlib.sha256(templates.numpy().tobytes()).hexdigest()

    def sample(self, labels: torch.Tensor, seed: int) -> torch.Tensor:
        rng = torch.Generator().manual_seed(seed)
        light = 0.4 + torch.rand((len(labels), 1, 1, 1), generator=rng)
        # index_select, not templates[labels]: it refuses -1 as it refuses any other wrong label
        return (self.templates.index_select(0, labels) * light).clamp(max=255).to(torch.uint8)


def main() -> None:
    """Fills up the demo's rare classes with it."""
    real = load_prepared_splits(DataConfig(source="demo", demo_scale=0.01)).train
    sampler = TemplateRenderer(torch.cat(real.examples(per_class=1)), real.class_names)
    check_sampler(sampler)
    train = SyntheticBalancedDataset(real, sampler)
    print(f"{len(real)} real images, {len(train) - len(real)} rendered ones beside them")


if __name__ == "__main__":
    main()
