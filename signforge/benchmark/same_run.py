"""Whether a call fits what a benchmark's folder holds, asked before anything is made for it."""

from pathlib import Path

from signforge.benchmark.arm_selection import needs_generator
from signforge.benchmark.description import describe_run
from signforge.benchmark.folder import check_run, known_generator
from signforge.benchmark.runner import GENERATOR
from signforge.config import Config
from signforge.data.splits import PreparedSplits
from signforge.errors import SignforgeError
from signforge.gan.sampler import ClassConditionalSampler


def require_same_run(
    config: Config,
    splits: PreparedSplits,
    run_dir: Path,
    sampler: ClassConditionalSampler | None,
) -> None:
    """Raises SignforgeError where ``run_dir`` holds rows of another config, data set or generator.

    To be asked before anything is trained for the folder, or written there; writes nothing.
    sampler: the generator that was given; None where it is the folder's own, or none is needed.
    """
    check_run(run_dir, config, describe_run(config, splits, sampler))
    known = known_generator(run_dir)
    own = (run_dir / GENERATOR).exists()
    if sampler is None and known and not own and needs_generator(config.benchmark.arms):
        raise SignforgeError(
            f"{run_dir} holds rows made with a generator from elsewhere ({known:.12}); name it "
            "with --generator, or choose another folder."
        )
