"""Do samples lie among real images, and do they reach all of them: four shares of neighbour balls.

Improved precision and recall: Kynkäänniemi et al. 2019 (1904.06991, eq. 1-2); density and
coverage: Naeem et al. 2020 (2002.09797, eq. 3-4).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from signforge.data.images import UNKNOWN_GROUP
from signforge.errors import SignforgeError

BLOCK_ROWS = 1024
"""Rows of a distance matrix held at a time ..."""
BLOCK_VALUES = 2**24
"""... or fewer, so that no more distances than these (128 MiB) are held."""
TIE = 1e-12
"""A fake this far outside a ball still counts as inside (squared, relative to the largest squared
distance from the real mean): rounding must not decide about points that lie on the edge."""


@dataclass(frozen=True)
class CoverageReport:
    """A ball around an image reaches to its k-th nearest neighbour within its own set.

    precision: share of fakes inside at least one real ball, 0..1.
    recall: share of real images inside at least one fake ball, 0..1.
    density: real balls around a fake, on average, over k; about 1 where both sets come from one
        distribution, above 1 where fakes crowd where real images are dense.
    coverage: share of real balls that hold at least one fake, 0..1; unlike recall it is not
        widened by fakes far off.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    k: int

    def as_dict(self) -> dict[str, float]:
        """JSON-ready, one key a field."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Balls:
    """Features float64 (N, D), and the squared radius float64 (N,) of the ball around each."""

    centres: Tensor
    squared_radii: Tensor
    k: int


def coverage_report(
    real: Tensor,
    fake: Tensor,
    *,
    k: int,
    real_groups: Tensor | None = None,
    fake_groups: Tensor | None = None,
) -> CoverageReport:
    """Precision, recall, density and coverage of float (M, D) ``fake`` against (N, D) ``real``.

    k: which neighbour a ball reaches to, 1 <= k < min(N, M); values compare at one k, N and M.
    real_groups, fake_groups: see ``neighbour_balls``.

    Raises SignforgeError for too few rows, different widths and features that are not finite.
    """
    return compare_balls(
        neighbour_balls(real, k=k, groups=real_groups),
        neighbour_balls(fake, k=k, groups=fake_groups),
    )


def neighbour_balls(features: Tensor, *, k: int, groups: Tensor | None = None) -> Balls:
    """The ball around each row of float (N, D) features, which never counts itself.

    groups: int64 (N,); rows of one known group are no neighbours of each other. Frames of one
        physical sign are near copies: with them a ball would be as small as a track, and real
        images of other signs would not reach into it either. The papers have no groups; with
        them balls are wider, and density is above 1 for one distribution too.

    Raises SignforgeError where a row has fewer than k neighbours or a feature is not finite.
    """
    if features.ndim != 2 or not bool(torch.isfinite(features).all()):
        raise SignforgeError(
            f"Coverage needs finite features (N, D), got shape {tuple(features.shape)}."
        )
    n = len(features)
    if not 1 <= k < n:
        raise SignforgeError(f"Coverage at k = {k} needs more than {k} images a side, got {n}.")
    if groups is None:
        groups = torch.full((n,), UNKNOWN_GROUP)
    values = features.double()
    radii = []
    for start, distances in _blocks(values, values):
        rows = torch.arange(start, start + len(distances))
        own = groups[rows]
        related = (own[:, None] == groups) & (own != UNKNOWN_GROUP)[:, None]
        related[torch.arange(len(rows)), rows] = True
        radii.append(distances.masked_fill_(related, torch.inf).kthvalue(k, dim=1).values)
    squared_radii = torch.cat(radii)
    if bool(squared_radii.isinf().any()):
        raise SignforgeError(
            f"Coverage at k = {k} needs {k} images of other groups for every image; take a "
            "smaller k or more groups."
        )
    return Balls(values, squared_radii, k)


def compare_balls(real: Balls, fake: Balls) -> CoverageReport:
    """As ``coverage_report``, from balls made before; both sides need the same k and width."""
    if real.centres.shape[1] != fake.centres.shape[1] or real.k != fake.k:
        raise SignforgeError(
            "Coverage compares features of one width at one k, got widths "
            f"{real.centres.shape[1]} and {fake.centres.shape[1]}, k {real.k} and {fake.k}."
        )
    middle = real.centres.mean(dim=0)
    slack = TIE * max(
        float((side.centres - middle).square().sum(dim=1).max()) for side in (real, fake)
    )
    recalled, covered = [], []
    balls_around_fake = torch.zeros(len(fake.centres), dtype=torch.int64)
    for start, distances in _blocks(real.centres, fake.centres):
        own_radii = real.squared_radii[start : start + len(distances), None]
        recalled.append((distances <= fake.squared_radii + slack).any(dim=1))
        inside = distances <= own_radii + slack
        covered.append(inside.any(dim=1))
        balls_around_fake += inside.sum(dim=0)
    return CoverageReport(
        precision=float((balls_around_fake > 0).double().mean()),
        recall=float(torch.cat(recalled).double().mean()),
        density=float(balls_around_fake.double().mean()) / real.k,
        coverage=float(torch.cat(covered).double().mean()),
        k=real.k,
    )


def class_coverage(
    real: Balls, real_labels: Tensor, fake: Tensor, fake_labels: Tensor, num_classes: int
) -> tuple[float | None, ...]:
    """Coverage (Naeem et al. 2020, eq. 4) of each class: balls that hold a fake of their own class.

    real: balls of all classes together, so that a class that shows a single physical sign has
        balls too: they reach to the k-th nearest image of another sign, of whatever class.
    real_labels, fake_labels: int64 (N,), (M,). fake: float (M, D). None where a class lacks real
    images or fakes.
    """
    fakes = fake.double()
    slack = TIE * float((real.centres - real.centres.mean(dim=0)).square().sum(dim=1).max())
    shares: list[float | None] = []
    for label in range(num_classes):
        own, drawn = real_labels == label, fakes[fake_labels == label]
        if not bool(own.any()) or len(drawn) == 0:
            shares.append(None)
            continue
        squared = nearest_distances(real.centres[own], drawn)[0].square()
        shares.append(float((squared <= real.squared_radii[own] + slack).double().mean()))
    return tuple(shares)


def nearest_distances(queries: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    """Distance float64 (N,) from each of (N, D) to the nearest of (M, D), and its row int64 (N,).

    The lowest row wins where several are equally near. Raises SignforgeError for an empty gallery.
    """
    if len(gallery) == 0:
        raise SignforgeError("There is no image to look for a nearest neighbour in.")
    nearest = [block.min(dim=1) for _, block in _blocks(queries.double(), gallery.double())]
    if not nearest:
        return torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.int64)
    squared = torch.cat([found.values for found in nearest])
    return squared.sqrt(), torch.cat([found.indices for found in nearest])


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(first row, squared distances float64 (rows, M)) of float64 (N, D) and (M, D)."""
    middle = y.mean(dim=0)  # small norms keep what the subtraction below would lose
    x, y = x - middle, y - middle
    y_norms = y.square().sum(dim=1)
    height = max(min(BLOCK_ROWS, BLOCK_VALUES // max(len(y), 1)), 1)
    for start in range(0, len(x), height):
        rows = x[start : start + height]
        squared = torch.addmm(y_norms[None, :], rows, y.T, alpha=-2)
        yield start, squared.add_(rows.square().sum(dim=1, keepdim=True)).clamp_(min=0)
