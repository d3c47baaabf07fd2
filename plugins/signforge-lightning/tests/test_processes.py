"""Two processes on the CPU: Lightning's DistributedSampler deals out one and the same data set."""

from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from signforge_lightning import BalancedDataModule, EpochInStep
from torch import Tensor
from torch.utils.data import DistributedSampler

from support import Recorder, labeled_images, make_train, make_trainer


class Writer(Recorder):
    """Writes what each rank was shown to a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def on_train_end(self) -> None:
        sampler = self.trainer.train_dataloader.sampler
        assert isinstance(sampler, DistributedSampler)
        torch.save(self.shown(), self.folder / f"{self.trainer.global_rank}.pt")


def test_ranks_share_out_each_epoch_and_see_the_same_pool(tmp_path: Path) -> None:
    module = BalancedDataModule(make_train, labeled_images(seed=200), batch_size=10)
    trainer = make_trainer(
        tmp_path, max_epochs=2, devices=2, strategy="ddp_fork", callbacks=[EpochInStep()]
    )
    model: LightningModule = Writer(tmp_path)
    trainer.fit(model, datamodule=module)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    dataset = make_train()
    for epoch in range(2):
        dataset.set_epoch(epoch)
        shown = torch.cat([images.chunk(2)[epoch] for images, _ in ranks])
        assert as_bytes(shown) == as_bytes(torch.stack([image for image, _ in dataset]))
    first, second = ranks[0][1].chunk(2)
    assert not torch.equal(first, second)


def as_bytes(images: Tensor) -> list[bytes]:
    return sorted(image.numpy().tobytes() for image in images)
