"""What a run was made with: versions, hardware and commit, as a record beside its results."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from signforge.device import resolve_device

PACKAGES = ("signforge", "torch", "torchvision", "timm", "torchmetrics", "numpy")


def describe_environment(device: str = "auto") -> dict[str, Any]:
    """Versions, hardware and commit, ready for JSON; nothing that names a person or a machine.

    Keys: ``versions`` ({package: version}, with python; None where a package is not installed),
    ``hardware`` ({cpu, cores, threads, memory_gb, gpu, platform}; cores are those this process
    may use, gpu is that of ``device``, None where it is none), ``commit`` (None outside a git
    checkout) and ``dirty`` (whether tracked files differ from the commit; None outside one).

    device: as in a config. Raises SignforgeError as ``resolve_device`` does.
    """
    used = resolve_device(device)
    commit, dirty = commit_of(Path(__file__).resolve().parent)
    return {
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        "hardware": {
            "cpu": _cpu_name(),
            "cores": _usable_cores(),
            "threads": torch.get_num_threads(),
            "memory_gb": _memory_gb(),
            "gpu": torch.cuda.get_device_name(used) if used.type == "cuda" else None,
            "platform": f"{platform.system()} {platform.machine()}",
        },
        "commit": commit,
        "dirty": dirty,
    }


def hardware_line(environment: Mapping[str, Any]) -> str:
    """One phrase for tables and headers, such as ``"Intel Xeon, 2 cores"``."""
    hardware = environment["hardware"]
    parts = [hardware["cpu"], f"{hardware['cores']} cores"]
    if hardware["gpu"]:
        parts.append(hardware["gpu"])
    return ", ".join(parts)


def commit_of(package: Path) -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the checkout whose ``signforge/`` is ``package``, else Nones.

    An installed copy may lie inside someone else's repository (a virtual environment in a
    project folder); that repository's commit would say nothing about this code.
    """
    git = shutil.which("git")
    if git is None:
        return None, None
    root = _git(git, package, ["rev-parse", "--show-toplevel"])
    tracked = _git(git, package, ["ls-files", "--error-unmatch", "__init__.py"])
    if root is None or tracked is None or Path(root).resolve() != package.parent:
        return None, None
    commit = _git(git, package, ["rev-parse", "HEAD"])
    changes = _git(git, package, ["status", "--porcelain", "--untracked-files=no"])
    return commit, None if changes is None else bool(changes)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    # Containers and taskset hide cores from a process that cpu_count() still reports.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_gb() -> float | None:
    try:
        pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    return round(pages * page_bytes / 2**30, 1)


def _git(git: str, folder: Path, arguments: Sequence[str]) -> str | None:
    """Standard output of one git command, or None where it fails."""
    try:
        done = subprocess.run(  # noqa: S603  (a fixed command, no shell)
            [git, "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
