"""Memory of processes as Linux accounts for it, in bytes (proc_pid_status(5), proc_pid_smaps(5)).

Resident memory counts shared memory and mapped files that the process has touched.
"""

from pathlib import Path

from signforge.errors import SignforgeError


def resident_bytes() -> int:
    """Of this process, now."""
    return _value("self/status", "VmRSS")


def peak_resident_bytes() -> int:
    """The most since the process began, or since ``reset_peak``."""
    return _value("self/status", "VmHWM")


def reset_peak() -> None:
    """Lets the peak begin anew at what is resident now."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        raise SignforgeError(
            "The peak of resident memory cannot be reset here: /proc/self/clear_refs refuses it; "
            "run this benchmark on Linux outside a sandbox."
        ) from None


def private_bytes(pid: int) -> int:
    """What process ``pid``, a child of this one, has in memory for itself alone."""
    file = f"{pid}/smaps_rollup"
    return _value(file, "Private_Clean") + _value(file, "Private_Dirty")


def _value(file: str, key: str) -> int:
    try:
        lines = (Path("/proc") / file).read_text(encoding="ascii").splitlines()
    except OSError:
        raise SignforgeError("Memory is read from /proc: run this benchmark on Linux.") from None
    (line,) = (line for line in lines if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024
