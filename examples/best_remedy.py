"""What helped most on GTSRB cut to a long tail (docs/benchmark.md), in plain torch: no GAN in it.

    python examples/best_remedy.py

Rare classes get a tenth of the images that they lack: their own, with brightness and contrast of
others. The loss is LDAM, which changes its weights late and wants cosines for logits.
"""

import timm
import torch

from signforge import (
    BorrowedLight,
    DataConfig,
    SyntheticBalancedDataset,
    load_prepared_splits,
    resolve_sampling_strategy,
)
from signforge.balance.real_sampler import RealImageSampler
from signforge.classify.last_layer import make_last_layer_cosine
from signforge.classify.losses import LDAM_SCALE, ldam_drw, loss_at

EPOCHS = 3

real = load_prepared_splits(DataConfig(demo_scale=0.03)).train
full = resolve_sampling_strategy("auto", real.class_counts, class_names=real.class_names)
counts = (real.class_counts + (full - real.class_counts) // 10).tolist()
train = SyntheticBalancedDataset(
    real,
    RealImageSampler(real),
    sampling_strategy=dict(enumerate(counts)),
    relight=BorrowedLight.of(real.images, real.labels),
)
model = timm.create_model("resnet10t", num_classes=train.num_classes)
make_last_layer_cosine(model, "resnet10t", LDAM_SCALE)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
ldam = ldam_drw(counts)
loader = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True, drop_last=True)
step, steps = 0, EPOCHS * len(loader)
for epoch in range(EPOCHS):
    train.set_epoch(epoch)
    for images, labels in loader:
        loss = loss_at(ldam, step, steps)(model(images.float() / 255), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
    print(f"epoch {epoch}: {len(train.real)} real of {len(train)} images, loss {loss.item():.2f}")
