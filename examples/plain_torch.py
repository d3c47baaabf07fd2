"""Training in plain torch with rare classes filled up by synthetic images.

    python examples/plain_torch.py [RUN]

Run it in the project's folder. RUN is a folder that `signforge train-cgan --data demo` wrote;
without it, the GTSRB generator that lies in this project fills up the demo's drawn signs, which
shows how it works and nothing else.
"""

import sys

import torch

from signforge import DataConfig, SyntheticBalancedDataset, load_prepared_splits

run = sys.argv[1] if len(sys.argv) > 1 else "benchmarks/assets/gtsrb-generator"
train = SyntheticBalancedDataset(load_prepared_splits(DataConfig(demo_scale=0.01)).train, run)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, train.num_classes))
optimizer = torch.optim.AdamW(model.parameters())
for epoch in range(3):
    train.set_epoch(epoch)  # a share of the synthetic images is drawn anew
    for images, labels in torch.utils.data.DataLoader(train, batch_size=64, shuffle=True):
        loss = torch.nn.functional.cross_entropy(model(images / 255), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"epoch {epoch}: {len(train.real)} real of {len(train)} images, loss {loss.item():.2f}")
