"""``--budget``: how much a benchmark may cost, as config keys that explicit options go over.

Quick answers whether all works and what is plainly better; standard is the least whose intervals
mean something, for three seeds are few enough; thorough is for figures to be published.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from signforge.benchmark.arms import ARMS
from signforge.config import BenchmarkConfig, Config
from signforge.errors import SignforgeError

QUICK: Mapping[str, Any] = MappingProxyType(
    {
        "benchmark.arms": ("real", "logit_adjustment", "synthetic"),
        "benchmark.seeds": 1,
        "classifier.steps": 600,
        "benchmark.extractor_steps": 400,
        "benchmark.cas_steps": 0,
        "balance.gate_steps": 300,
        "gan.max_minutes": 10.0,
    }
)
STANDARD: Mapping[str, Any] = MappingProxyType(
    {
        "benchmark.arms": BenchmarkConfig().arms,
        "benchmark.seeds": 3,
        "classifier.steps": 2000,
    }
)
THOROUGH: Mapping[str, Any] = MappingProxyType(
    {
        "benchmark.arms": (
            *ARMS,
            # Each beside its control: real images in place of samples.
            "oversample_tenth+logit_adjustment",
            "synthetic_tenth+logit_adjustment",
            "oversample_tenth+ldam_drw",
            "synthetic_tenth+ldam_drw",
            "oversample_tenth_relit+ldam_drw",
            "synthetic_tenth_relit+ldam_drw",
        ),
        "benchmark.seeds": 5,
        "classifier.steps": 6000,
        "benchmark.extractor_steps": 2000,
        "benchmark.inception_images": 10_000,
    }
)
BUDGETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"quick": QUICK, "standard": STANDARD, "thorough": THOROUGH}
)
_NEXT = {"quick": "standard", "standard": "thorough"}


def budget_keys(name: str) -> dict[str, Any]:
    """Config keys of a budget, its own name among them; what they do not say keeps its value.

    Raises SignforgeError for an unknown budget.
    """
    if name not in BUDGETS:
        raise SignforgeError(f"Unknown budget {name!r}: choose one of {', '.join(BUDGETS)}.")
    return {**BUDGETS[name], "benchmark.budget": name}


def left_out(config: Config, trained: Mapping[str, int] | None = None) -> str | None:
    """What this run leaves out of the next larger budget, as a sentence with `code` in backticks.

    By the config's own values, for explicit options may have changed what the budget says. None
    without a budget, for the largest one, and where nothing is left out. How long a GAN may train
    is not told: it may have been trained elsewhere.

    trained: the seeds that each arm has, in however many calls; by default what config asks for.
    """
    name = config.benchmark.budget
    if name not in _NEXT:
        return None
    more = BUDGETS[_NEXT[name]]
    trained = trained or dict.fromkeys(config.benchmark.arms, config.benchmark.seeds)
    missing = [arm for arm in more["benchmark.arms"] if arm not in trained]
    fewest, parts = min(trained.values()), []
    if fewest < more["benchmark.seeds"]:
        parts.append(f"{more['benchmark.seeds'] - fewest} of {more['benchmark.seeds']} seeds")
    usual = Config()
    for key, has, default, of in (
        ("classifier.steps", config.classifier.steps, usual.classifier.steps, "each classifier"),
        ("balance.gate_steps", config.balance.gate_steps, usual.balance.gate_steps, "the gate"),
        (
            *("benchmark.extractor_steps", config.benchmark.extractor_steps),
            *(usual.benchmark.extractor_steps, "the extractor"),
        ),
    ):
        steps = more.get(key, default)
        if has < steps:
            parts.append(f"{steps - has:,} of {steps:,} steps of {of}")
    if missing:
        parts.append(f"the arms {', '.join(missing)}")
    if config.benchmark.cas_steps == 0:
        parts.append("the classification accuracy score")
    if not parts:
        return None
    alone = (
        " With a single seed an interval covers test images alone, not the luck of a training."
        if fewest == 1
        else ""
    )
    return (
        f"`--budget {name}` leaves out of what `--budget {_NEXT[name]}` does: "
        f"{'; '.join(parts)}.{alone}"
    )
