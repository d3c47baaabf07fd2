import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from signforge.config import DataConfig
from signforge.data.demo import GTSRB_TEST_COUNTS, draw_demo
from signforge.data.demo_pen import Pen, draw_style
from signforge.data.demo_signs import DESIGNS, draw_sign
from signforge.data.images import LabeledImages, LabeledSplits
from signforge.data.names import GTSRB_CLASS_COUNTS, GTSRB_CLASS_NAMES
from signforge.data.splits import prepare_splits
from signforge.errors import SignforgeError


@pytest.fixture(scope="module")
def tiny() -> LabeledSplits:
    return draw_demo(scale=0.01, resolution=32)


def by_name(images: LabeledImages) -> dict[str, Tensor]:
    return dict(zip(images.names, images.images, strict=True))


def test_counts_are_those_of_gtsrb_times_scale(tiny):
    assert sum(GTSRB_TEST_COUNTS) == 12_630
    assert tiny.test is not None
    assert tiny.val is None
    expected = [max(round(n * 0.01), 9) for n in GTSRB_CLASS_COUNTS]
    assert tiny.train.class_counts.tolist() == expected
    assert tiny.test.class_counts.tolist() == [max(round(n * 0.01), 4) for n in GTSRB_TEST_COUNTS]
    assert tiny.train.class_names == GTSRB_CLASS_NAMES
    assert tiny.train.images.shape[1:] == (3, 32, 32)
    assert len(set(tiny.train.names + tiny.test.names)) == len(tiny.train) + len(tiny.test)


def test_same_seed_draws_the_same_and_another_does_not(tiny):
    again = draw_demo(scale=0.01, resolution=32)
    other = draw_demo(scale=0.01, resolution=32, seed=1)
    assert again.train.fingerprint == tiny.train.fingerprint
    assert again.test.fingerprint == tiny.test.fingerprint
    same = (other.train.images == tiny.train.images).flatten(1).all(1)
    assert not same.any()


def test_larger_scale_adds_images_and_changes_none(tiny):
    larger = by_name(draw_demo(scale=0.02, resolution=32).train)
    for name, image in by_name(tiny.train).items():
        assert torch.equal(larger[name], image), name


def test_groups_are_frames_of_one_sign_and_disjoint_between_splits(tiny):
    train, test = tiny.train, tiny.test
    assert not set(train.groups.tolist()) & set(test.groups.tolist())
    assert len(set(test.groups.tolist())) == len(test)
    for group in train.groups.unique():
        assert len(train.labels[train.groups == group].unique()) == 1
    assert (
        not (train.images[:, None, :, ::8, ::8] == test.images[None, :, :, ::8, ::8])
        .flatten(2)
        .all(2)
        .any()
    )


def test_frames_of_one_sign_resemble_each_other_more_than_other_signs(tiny):
    train = tiny.train
    looks = F.adaptive_avg_pool2d(train.images.float(), 4).flatten(1)
    distance = torch.cdist(looks, looks)
    same_class = train.labels[:, None] == train.labels
    same_sign = train.groups[:, None] == train.groups
    distinct = ~torch.eye(len(train), dtype=torch.bool)
    within = distance[same_sign & distinct].mean()
    across = distance[same_class & ~same_sign].mean()
    assert within < 0.8 * across


def test_every_class_keeps_four_signs_in_train_at_the_default_scale():
    config = DataConfig(resolution=8)
    splits = draw_demo(scale=config.demo_scale, resolution=config.resolution)
    train = prepare_splits(config, splits).train
    signs = [len(train.groups[train.labels == label].unique()) for label in range(43)]
    assert min(signs) >= 4


def test_smallest_scale_can_still_be_split():
    prepared = prepare_splits(DataConfig(), draw_demo(scale=0.001, resolution=8))
    for split in (prepared.train, prepared.val, prepared.test):
        assert (split.class_counts > 0).all()


def test_resolution_64_shows_the_same_signs(tiny):
    large = draw_demo(scale=0.001, resolution=64).train
    assert large.images.shape[1:] == (3, 64, 64)
    assert large.labels[:9].tolist() == tiny.train.labels[:9].tolist()
    assert large.images.float().flatten(1).std(1).median() > 10


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.5])
def test_scale_out_of_range_is_refused(scale):
    with pytest.raises(SignforgeError, match="demo_scale"):
        draw_demo(scale=scale, resolution=32)


def test_every_class_has_a_design_of_its_own():
    assert len(DESIGNS) == len(GTSRB_CLASS_NAMES) == 43
    style = draw_style(np.random.default_rng(0))
    faces = np.stack([np.asarray(draw_sign(c, style, 48), dtype=int) for c in range(43)])
    difference = np.abs(faces[:, None] - faces[None]).mean(axis=(2, 3, 4))
    assert difference[~np.eye(43, dtype=bool)].min() > 1


@pytest.mark.parametrize(("left", "right"), [(19, 20), (34, 33), (37, 36), (39, 38)])
def test_left_and_right_signs_are_mirror_images(left, right):
    style = draw_style(np.random.default_rng(0))
    style = type(style)(**{**vars(style), "glyph_shift": (0.0, 0.0)})
    faces = [np.asarray(draw_sign(c, style, 96), dtype=int) for c in (left, right)]
    unlike = np.abs(faces[0] - faces[1]).mean()
    assert np.abs(faces[0][:, ::-1] - faces[1]).mean() < 0.25 * unlike


def test_pen_mirrors_and_moves():
    image = Image.new("RGBA", (40, 40))
    Pen(image).moved(0.5, (0.5, 0), mirror=True).box(0.6, -0.2, 1, 0.2, (255, 0, 0))
    rows, columns = np.asarray(image)[..., 3].nonzero()
    assert (rows.min(), rows.max()) == (18, 22)
    assert (columns.min(), columns.max()) == (20, 24)


def small_classifier() -> nn.Module:
    def block(inner: int, outer: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for channels in (inner, outer):
            layers += [nn.Conv2d(channels, outer, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(outer), nn.ReLU()]
        return nn.Sequential(*layers, nn.MaxPool2d(2))

    features = nn.Sequential(block(3, 24), block(24, 48), block(48, 96), nn.AdaptiveAvgPool2d(2))
    return nn.Sequential(features, nn.Flatten(), nn.Linear(384, 43))


def jitter(images: Tensor, rng: torch.Generator) -> Tensor:
    n = len(images)
    angle, scale, x, y, gain = 0.1 * torch.randn(5, n, generator=rng)
    cos, sin = (1 + scale) * angle.cos(), angle.sin()
    theta = torch.stack([cos, -sin, x, sin, cos, y], 1).view(n, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved * (1 + 2 * gain)[:, None, None, None]


@pytest.mark.slow
def test_small_classifier_errs_and_rare_classes_come_out_worse():
    splits = draw_demo(scale=0.1, resolution=32)
    train, test = splits.train, splits.test
    assert test is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = small_classifier()
    rng = torch.Generator().manual_seed(0)
    steps = 200
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(train), (64,), generator=rng)
        batch = jitter((train.images[rows].float() - 110) / 60, rng)
        loss = F.cross_entropy(model(batch), train.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        preds = torch.cat([model((b.float() - 110) / 60).argmax(1) for b in test.images.split(256)])
    correct = preds == test.labels
    recall = torch.stack([correct[test.labels == label].float().mean() for label in range(43)])
    by_count = train.class_counts.argsort(descending=True, stable=True)
    top1 = correct.float().mean().item()
    frequent, rare = recall[by_count[:14]].mean().item(), recall[by_count[29:]].mean().item()
    assert 0.5 < top1 < 0.99
    assert frequent > rare + 0.05
