"""Cost per item of a DataLoader over SyntheticBalancedDataset against plain real data.

    python benchmarks/balance_speed.py

Both data sets are read in one process, in turns, shuffled, in batches of 128 with the default
collate and no transform; the fastest of several epochs counts. The sampler only adds noise to a
colour, so that the refresh time shown is the cost of the pool, not of a generator.
"""

import argparse
import time

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.data.images import UNKNOWN_GROUP, LabeledImages

NUM_CLASSES = 43


class TemplateSampler:
    num_classes = NUM_CLASSES
    resolution = 32
    class_names = tuple(f"class {label}" for label in range(NUM_CLASSES))
    fingerprint = "template"

    def sample(self, labels: Tensor, seed: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        noise = torch.randint(0, 64, (len(labels), 3, 32, 32), generator=rng)
        return (noise + labels.view(-1, 1, 1, 1) * 4).to(torch.uint8)


def long_tailed_images() -> LabeledImages:
    """39,000 or so images of 32x32 pixels, 2,250 to 210 a class, as GTSRB has them."""
    ramp = torch.linspace(0, 1, NUM_CLASSES)
    counts = (2250 * (210 / 2250) ** ramp).round().long()
    labels = torch.repeat_interleave(counts)
    n = len(labels)
    rng = torch.Generator().manual_seed(0)
    return LabeledImages(
        images=torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=rng),
        labels=labels,
        groups=torch.full((n,), UNKNOWN_GROUP),
        class_names=TemplateSampler.class_names,
        names=tuple(str(i) for i in range(n)),
        source="noise",
    )


def seconds_per_item(dataset: Dataset, num_workers: int) -> float:
    loader = DataLoader(dataset, batch_size=128, shuffle=True, num_workers=num_workers)
    start = time.perf_counter()
    items = sum(len(labels) for _, labels in loader)
    return (time.perf_counter() - start) / items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--num-workers", type=int, default=0)
    options = parser.parse_args()
    real = long_tailed_images()
    balanced = SyntheticBalancedDataset(real, TemplateSampler(), refresh=0.25)
    plain, ours, refresh = [], [], []
    for epoch in range(1, options.epochs + 1):
        plain.append(seconds_per_item(real, options.num_workers))
        start = time.perf_counter()
        balanced.set_epoch(epoch)
        refresh.append(time.perf_counter() - start)
        ours.append(seconds_per_item(balanced, options.num_workers))
    print("| real items | all items | workers | real us/item | ours us/item | ratio | refresh s |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {len(real)} | {len(balanced)} | {options.num_workers} | {min(plain) * 1e6:.2f} "
        f"| {min(ours) * 1e6:.2f} | {min(ours) / min(plain):.2f} | {min(refresh):.2f} |"
    )


if __name__ == "__main__":
    main()
