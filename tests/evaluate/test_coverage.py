import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from signforge.data.images import UNKNOWN_GROUP
from signforge.errors import SignforgeError
from signforge.evaluate.coverage import (
    class_coverage,
    compare_balls,
    coverage_report,
    nearest_distances,
    neighbour_balls,
)


def cloud(n: int, d: int = 6, seed: int = 0, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def sklearn_reference(real: Tensor, fake: Tensor, k: int) -> dict[str, float]:
    """The four equations as the papers print them, over sklearn's exact neighbours."""
    x, y = real.double().numpy(), fake.double().numpy()

    def radii(points: np.ndarray) -> np.ndarray:
        # sklearn leaves a point out of its own neighbours when it is asked for none.
        distances, _ = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(points).kneighbors()
        return distances[:, -1]

    between = np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))
    in_real_ball = between <= radii(x)[:, None]
    return {
        "precision": float(in_real_ball.any(axis=0).mean()),
        "recall": float((between <= radii(y)[None]).any(axis=1).mean()),
        "density": float(in_real_ball.sum() / (k * len(y))),
        "coverage": float(in_real_ball.any(axis=1).mean()),
    }


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(8, 60),
    m=st.integers(8, 60),
    d=st.integers(1, 20),
    k=st.integers(1, 7),
    shift=st.sampled_from([0.0, 0.5, 2.0]),
    seed=st.integers(0, 10**6),
)
def test_agrees_with_the_equations(n: int, m: int, d: int, k: int, shift: float, seed: int) -> None:
    real, fake = cloud(n, d, seed), cloud(m, d, seed + 1, shift)
    ours = coverage_report(real, fake, k=k).as_dict()
    assert ours == pytest.approx({**sklearn_reference(real, fake, k), "k": k}, rel=1e-12)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = cloud(50), cloud(37, seed=1, shift=0.5)
    expected = coverage_report(real, fake, k=3)
    monkeypatch.setattr("signforge.evaluate.coverage.BLOCK_ROWS", 7)
    assert coverage_report(real, fake, k=3) == expected
    monkeypatch.setattr("signforge.evaluate.coverage.BLOCK_VALUES", 60)
    assert coverage_report(real, fake, k=3) == expected


def test_by_hand_on_a_line() -> None:
    """Real balls at k = 1: [-1, 1], [0, 2], [1, 3] and [2, 10]; fakes' radii are 0.5, 0.5, 18."""
    real = torch.tensor([[0.0], [1.0], [2.0], [6.0]])
    fake = torch.tensor([[1.5], [2.0], [20.0]])
    report = coverage_report(real, fake, k=1)
    assert report.precision == pytest.approx(2 / 3)
    # Fake balls [1, 2], [1.5, 2.5] and [2, 38]: real 1, 2 and 6 lie in one, 0 in none.
    assert report.recall == pytest.approx(3 / 4)
    # 1.5 lies in two real balls, 2.0 in [0, 2], [1, 3] and [2, 10], 20 in none.
    assert report.density == pytest.approx((2 + 3 + 0) / 3)
    assert report.coverage == pytest.approx(3 / 4)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(6, 50), k=st.integers(1, 5), seed=st.integers(0, 10**6), copies=st.integers(1, 4)
)
def test_identical_sets_give_one(n: int, k: int, seed: int, copies: int) -> None:
    """Also with duplicates, whose balls have radius 0 and must still hold their own point."""
    same = cloud(n, 5, seed).repeat(copies, 1)
    order = torch.randperm(len(same), generator=torch.Generator().manual_seed(seed))
    report = coverage_report(same, same[order], k=k)
    assert (report.precision, report.recall, report.coverage) == (1, 1, 1)
    assert report.density >= 1


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(6, 40),
    m=st.integers(6, 40),
    k=st.integers(1, 5),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    offset=st.sampled_from([0.0, 100.0]),
)
def test_properties(n: int, m: int, k: int, seed: int, scale: float, offset: float) -> None:
    real, fake = cloud(n, 4, seed).double(), cloud(m, 4, seed + 1, 0.5).double()
    report = coverage_report(real, fake, k=k)
    for value in (report.precision, report.recall, report.coverage):
        assert 0 <= value <= 1
    assert report.density >= 0
    assert (report.precision == 0) == (report.coverage == 0) == (report.density == 0)
    # Swapping the sets swaps precision and recall.
    swapped = coverage_report(fake, real, k=k)
    assert (swapped.precision, swapped.recall) == (report.recall, report.precision)
    moved = coverage_report(real * scale + offset, fake * scale + offset, k=k)
    assert moved == report
    # More fakes never cover less, and a larger k never finds fewer.
    more = coverage_report(real, torch.cat([fake, cloud(5, 4, seed + 2).double()]), k=k)
    assert more.coverage >= report.coverage
    if k + 1 < min(n, m):
        wider = coverage_report(real, fake, k=k + 1)
        assert wider.precision >= report.precision
        assert wider.recall >= report.recall
        assert wider.coverage >= report.coverage


def test_lopsided_fakes() -> None:
    """What each figure is for, by fakes that are bad in one way only."""
    everything = cloud(900)
    real, fresh, rest = everything[:300], everything[300:600], everything[600:]
    floor = coverage_report(real, fresh, k=5)
    assert min(floor.precision, floor.recall, floor.coverage) > 0.8
    assert 0.85 < floor.density < 1.15

    collapsed = coverage_report(real, rest.mean(0) + 0.05 * (rest - rest.mean(0)), k=5)
    assert collapsed.precision == 1
    assert collapsed.recall < 0.1
    assert collapsed.coverage < 0.5 * floor.coverage
    assert collapsed.density > 1.3 * floor.density

    one_sided = coverage_report(real, rest[rest[:, 0] > 0], k=5)
    assert one_sided.precision > 0.8
    assert one_sided.recall < 0.8 * floor.recall
    assert one_sided.coverage < 0.8 * floor.coverage

    far_off = coverage_report(real, rest + 20, k=5)
    assert far_off.precision == far_off.recall == far_off.coverage == far_off.density == 0

    # Scattered fakes have balls so wide that recall praises them; coverage does not.
    scattered = coverage_report(real, rest * 10, k=5)
    assert scattered.precision < 0.2
    assert scattered.recall > 0.9
    assert scattered.coverage < 0.2


def test_frames_of_one_sign_are_no_neighbours() -> None:
    """Tracks of near copies: without groups no real image of another sign reaches into a ball."""
    signs = cloud(40, seed=3)
    groups = torch.arange(40).repeat_interleave(10)
    frames = signs.repeat_interleave(10, 0) + 1e-3 * cloud(400, seed=4)
    real, other = frames[:200], frames[200:]
    plain = coverage_report(real, other, k=3)
    assert plain.precision == plain.recall == plain.coverage == 0
    grouped = coverage_report(real, other, k=3, real_groups=groups[:200], fake_groups=groups[200:])
    assert min(grouped.precision, grouped.recall, grouped.coverage) > 0.5
    unknown = torch.full((200,), UNKNOWN_GROUP)
    assert coverage_report(real, other, k=3, real_groups=unknown, fake_groups=unknown) == plain


def test_radius_counts_neighbours_of_other_groups() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    balls = neighbour_balls(points, k=1, groups=torch.tensor([5, 5, 6, UNKNOWN_GROUP]))
    assert balls.squared_radii.sqrt().tolist() == pytest.approx([3, 2, 2, 4])


def test_nearest_distances_agree_with_sklearn() -> None:
    queries, gallery = cloud(1500, seed=1), cloud(1200)
    distances, indices = nearest_distances(queries, gallery)
    neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(gallery.double().numpy())
    expected, places = neighbours.kneighbors(queries.double().numpy())
    np.testing.assert_allclose(distances.numpy(), expected[:, 0], rtol=1e-9)
    assert indices.tolist() == places[:, 0].tolist()


def test_class_coverage_is_coverage_by_the_equation_within_classes() -> None:
    real, fake = cloud(60, seed=5), cloud(45, seed=6, shift=0.3)
    labels, fake_labels = torch.arange(60) % 4, torch.arange(45) % 3
    found = class_coverage(neighbour_balls(real, k=3), labels, fake, fake_labels, 5)
    x, y = real.double().numpy(), fake.double().numpy()
    distances, _ = NearestNeighbors(n_neighbors=3, algorithm="brute").fit(x).kneighbors()
    for label in range(3):
        own = labels.numpy() == label
        between = np.sqrt(((x[own][:, None] - y[fake_labels.numpy() == label][None]) ** 2).sum(-1))
        held = (between <= distances[own, -1][:, None]).any(axis=1)
        assert found[label] == pytest.approx(float(held.mean()))
    assert 0 < found[0] < 1
    assert found[3:] == (None, None)  # no fakes, no real images
    alone = class_coverage(neighbour_balls(real, k=3), torch.zeros(60), fake, torch.zeros(45), 1)
    assert alone[0] == coverage_report(real, fake, k=3).coverage


def test_unfit_input_is_one_sentence() -> None:
    with pytest.raises(SignforgeError, match="k = 5 needs more than 5 images a side, got 5"):
        coverage_report(cloud(9), cloud(5), k=5)
    with pytest.raises(SignforgeError, match="finite features"):
        coverage_report(cloud(9), torch.full((9, 6), math.nan), k=2)
    with pytest.raises(SignforgeError, match="widths 6 and 4"):
        coverage_report(cloud(9), cloud(9, 4), k=2)
    with pytest.raises(SignforgeError, match="k 2 and 3"):
        compare_balls(neighbour_balls(cloud(9), k=2), neighbour_balls(cloud(9), k=3))
    with pytest.raises(SignforgeError, match="2 images of other groups"):
        neighbour_balls(cloud(4), k=2, groups=torch.tensor([0, 0, 0, 1]))
    with pytest.raises(SignforgeError, match="no image to look for"):
        nearest_distances(cloud(3), cloud(0))
