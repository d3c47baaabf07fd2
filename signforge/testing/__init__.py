"""The rules of samplers, readers and executors, as checks and as pytest classes: run them on yours.

pytest itself is not imported.
"""

from signforge.testing.executors import ExecutorContract, check_executor
from signforge.testing.readers import ReaderContract, check_reader
from signforge.testing.samplers import ClassConditionalSamplerContract, check_sampler

__all__ = [
    "ClassConditionalSamplerContract",
    "ExecutorContract",
    "ReaderContract",
    "check_executor",
    "check_reader",
    "check_sampler",
]
