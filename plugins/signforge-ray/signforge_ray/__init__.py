"""signforge's benchmark on Ray: ``signforge benchmark --executor ray``."""

from signforge_ray.executor import run_on_ray

__all__ = ["run_on_ray"]
