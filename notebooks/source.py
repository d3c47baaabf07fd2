# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # signforge from data to verdict
#
# Rare classes are learned badly. signforge trains one conditional GAN on all classes, fills the
# rare ones up with its samples, and measures whether that helped. This page runs the whole flow in
# a few minutes on two CPU cores, on signs that are drawn in code, so nothing is downloaded:
#
# 1. [Settings](#Settings)
# 2. [Data summary](#Data-summary)
# 3. [Train the GAN](#Train-the-GAN)
# 4. [Look at the samples](#Look-at-the-samples)
# 5. [Fidelity](#Fidelity)
# 6. [The balanced data set in a training loop](#The-balanced-data-set-in-a-training-loop)
# 7. [Balancing gain](#Balancing-gain)
# 8. [Clean up](#Clean-up)
#
# **The figures below mean little.** The images are drawn, ten classes stand in for 43, and the GAN
# sees a twelfth of what it sees in a real run. They show what comes out, not what to expect.
# Figures on the real GTSRB, with protocol and hardware, are in
# [benchmarks/](../benchmarks/README.md).

# %%
import tempfile
import warnings
from pathlib import Path

import torch
from IPython.display import Image, Markdown, display
from torch.utils.data import DataLoader

import signforge
from signforge.benchmark.fidelity import measure_fidelity
from signforge.benchmark.fidelity_tables import fidelity_table
from signforge.benchmark.job import JobDisplay, run_main_job
from signforge.benchmark.markdown import table_markdown
from signforge.benchmark.tables import Table, arms_table
from signforge.data.charts import save_class_distribution, save_image_grid
from signforge.data.splits import imbalance_ratio
from signforge.evaluate.observed import TrainingDisplay, train_observed

warnings.showwarning = lambda message, *_: print(f"Note: {message}")
print(f"signforge {signforge.__version__}, torch {torch.__version__}")

# %% [markdown]
# ## Settings
#
# One config drives every step. `load_config` takes a preset or a YAML file, and overrides as
# `--set` of the command line does. For your own data, `data.source` is a folder of class folders,
# or GTSRB in any of its layouts.

# %% tags=["parameters"]
CLASSES = [2, 13, 12, 38, 25, 17, 14, 40, 27, 19]  # by id or name
GAN_KIMG = 50  # thousand images that the GAN sees; the GTSRB preset trains for 600
GUIDE_STEPS = 150
CLASSIFIER_STEPS = 200
SEEDS = 2
print(f"{len(CLASSES)} classes, {GAN_KIMG} kimg, {CLASSIFIER_STEPS} steps, {SEEDS} seeds")

# %%
config = signforge.load_config(
    "demo",
    [
        ("data.classes", CLASSES),
        ("gan.base_channels", 32),
        ("gan.guide_steps", GUIDE_STEPS),
        ("gan.total_kimg", GAN_KIMG),
        ("gan.max_minutes", None),
        ("gan.learning_rate_decay_from_kimg", 0.7 * GAN_KIMG),
        ("gan.status_every_kimg", GAN_KIMG / 5),
        ("gan.ema_halflife_kimg", 0.1 * GAN_KIMG),
        ("balance.gate_tau", 0),
        ("classifier.name", "resnet10t"),
        ("classifier.batch_size", 32),
        ("classifier.steps", CLASSIFIER_STEPS),
        ("benchmark.arms", ["real", "oversample", "synthetic"]),
        ("benchmark.seeds", SEEDS),
        ("benchmark.extractor_steps", CLASSIFIER_STEPS),
    ],
)
workspace = tempfile.TemporaryDirectory()  # in a run of your own: a folder that stays
folder = Path(workspace.name)
print(f"classifier {config.classifier.name}, arms {', '.join(config.benchmark.arms)}")

# %% [markdown]
# ## Data summary
#
# Training, validation and test images, cut so that frames of one physical sign never lie on both
# sides. GAN, gate and every choice see the first two only.

# %%
splits = signforge.load_prepared_splits(config.data)
train, names = splits.train, splits.train.class_names
named = {"train": train, "val": splits.val, "test": splits.test}
counts = Table(
    title="Images of each class",
    header=("class", *named),
    rows=tuple(
        (name, *(f"{int(split.class_counts[label]):,}" for split in named.values()))
        for label, name in enumerate(names)
    ),
)
display(Markdown(table_markdown(counts)))
print(
    f"{len(train):,} training images of {len(train.groups.unique())} signs at "
    f"{train.resolution}x{train.resolution}, imbalance ratio "
    f"{imbalance_ratio(train.class_counts):.1f}:1"
)

# %%
save_class_distribution(
    folder / "classes.png",
    {"train": train.class_counts, "test": splits.test.class_counts},
    names,
    "Images of each class",
)
display(
    Image(
        folder / "classes.png",
        alt=f"Bar chart of the training and test images of {len(names)} classes; the most "
        f"frequent has {int(train.class_counts.max())} training images, the rarest "
        f"{int(train.class_counts.min())}.",
    )
)

# %% [markdown]
# ## Train the GAN
#
# One class-conditional DCGAN for all classes, so that what it learns about light, blur and pose
# from frequent classes serves the rare ones. The run directory holds checkpoints, metrics and
# grids, and can be resumed bit for bit.

# %%
run = folder / "gan"
sampler = train_observed(
    config,
    splits,
    run,
    display=TrainingDisplay(
        on_status=lambda status: print(
            f"{status.seen_kimg:6.1f} kimg  {status.seconds:4.0f} s  "
            f"{status.images_per_second:4.0f} images/s  "
            f"loss D {status.discriminator_loss:.2f}  G {status.generator_loss:.2f}"
        )
    ),
)

# %% [markdown]
# ## Look at the samples
#
# Real training images at the left, samples of the same class at the right. `sampler.sample` is all
# that the rest of the package asks of a generator: labels and a seed in, uint8 images out.

# %%
columns = 4
labels = torch.arange(sampler.num_classes).repeat_interleave(columns)
synthetic = sampler.sample(labels, seed=0).split(columns)
rows = [torch.cat(pair) for pair in zip(train.examples(columns), synthetic, strict=True)]
save_image_grid(folder / "samples.png", rows, names, ("real", "synthetic"))
display(
    Image(
        folder / "samples.png",
        alt=f"{len(names)} rows, one a class: {columns} real signs, then {columns} that the GAN "
        "drew.",
    )
)

# %% [markdown]
# ## Fidelity
#
# A classifier trained on the real training split gives the features (its hash is kept with the
# figures). *Real against real* is what real images of other signs reach with as many images.
# Samples may exceed it, in label agreement and precision above all, where they are typical rather
# than good. Label agreement is the share of images to which the
# classifier gives their own class.

# %%
fidelity = measure_fidelity(config, splits, sampler, folder / "benchmark")
display(Markdown(table_markdown(fidelity_table(fidelity, names))))
print(f"{fidelity['metric_name']}: extractor {fidelity['extractor_sha256'][:12]}")

# %% [markdown]
# ## The balanced data set in a training loop
#
# `SyntheticBalancedDataset` is a torch `Dataset`: your real items first, untouched, then synthetic
# ones in the same form until the classes are level. Nothing else in the loop changes but
# `set_epoch`, which draws a quarter of the synthetic images anew.

# %%
balanced = signforge.SyntheticBalancedDataset(train, run, refresh=0.25, seed=0)
before_after = Table(
    title="Images of each class, before and after",
    header=("class", "real", "synthetic", "together"),
    rows=tuple(
        (name, f"{int(real):,}", f"{int(drawn):,}", f"{int(total):,}")
        for name, real, drawn, total in zip(
            names,
            balanced.real_counts,
            balanced.synthetic_counts,
            balanced.class_counts,
            strict=True,
        )
    ),
)
display(Markdown(table_markdown(before_after)))
print(f"before: {imbalance_ratio(balanced.real_counts):.1f}:1, {len(train):,} images")
print(f"after: {imbalance_ratio(balanced.class_counts):.1f}:1, {len(balanced):,} images")

# %%
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 3, stride=2),
    torch.nn.ReLU(),
    torch.nn.Conv2d(16, 32, 3, stride=2),
    torch.nn.ReLU(),
    torch.nn.Flatten(),
    torch.nn.LazyLinear(len(names)),
)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
for epoch in range(4):
    seen = torch.zeros(len(names), dtype=torch.int64)
    shown_before = balanced.pool_images.clone()
    balanced.set_epoch(epoch)
    redrawn = (balanced.pool_images != shown_before).flatten(1).any(1)
    for images, targets in DataLoader(balanced, batch_size=64, shuffle=True):
        loss = torch.nn.functional.cross_entropy(model(images.float() / 255), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += torch.bincount(targets, minlength=len(names))
    print(
        f"epoch {epoch}: {int(redrawn.sum()):,} of {len(redrawn):,} synthetic images drawn anew, "
        f"{int(seen.min())} to {int(seen.max())} images a class, loss {loss.item():.2f}"
    )

# %% [markdown]
# ## Balancing gain
#
# The benchmark trains a classifier for each arm and seed: on the real images as they are, with
# rare classes shown more often (`oversample`, the cheap remedy that anyone would try first), and
# with synthetic images. The gate, which turns bad samples away by classifiers of its own, is off
# here to save their training. All arms get the same augmentation, number of steps and, for one
# seed, initial weights. The test split is scored once.

# %%
summary = run_main_job(
    config,
    splits,
    folder / "benchmark",
    generator=run,
    display=JobDisplay(
        on_row=lambda row: print(
            f"seed {row['seed']}  {row['arm']:<10}  macro accuracy "
            f"{100 * row['macro_accuracy']:.1f} %"
        )
    ),
)

# %%
display(Markdown(f"**{summary.verdict}**"), Markdown(table_markdown(arms_table(summary))))

# %% [markdown]
# Mean ± standard deviation over seeds; gains are in points of macro accuracy (mean recall of the
# classes) with 95 % intervals over seeds and test images. Two seeds of a run this short decide
# nothing, whatever the sentence says.
#
# `report.html` says the same as one page that opens anywhere, with recalls, confusions and
# pictures of each class; `rows.jsonl` holds one line an arm and seed, from which all else is made.

# %%
for path in sorted((folder / "benchmark").iterdir()):
    if path.is_file() and not path.name.startswith("."):
        print(f"benchmark/{path.name:<20} {path.stat().st_size / 1024:6.0f} kB")

# %% [markdown]
# ## Clean up
#
# This page worked in a temporary folder. In a terminal, one command does all of it, on 43 classes
# and with a longer training: `signforge benchmark --config demo --out runs/demo`. Its report stays
# in `runs/demo/report.html`.

# %%
workspace.cleanup()
print("removed" if not folder.exists() else "still there")
