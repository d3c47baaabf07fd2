"""A benchmark killed at ten random moments ends with the figures of one that never was.

Run as a program, this file is the benchmark with its lives: ``python test_resume_kills.py FOLDER``.
Every life is a fork of one process that has torch imported and the data drawn, but never ran a
backward pass (autograd's threads do not survive a fork).
"""

import json
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

SEED = 5
KILLS = {"GAN": 2, "measuring": 2, "rows": 4, "report": 2}
"""How many in each part of the job, as ``part_of`` tells them apart; the moments are random."""
ARMS = ("real", "synthetic", "logit_adjustment")
CLOCKS = ("seconds", "finished_at", "memory_mib", "images_per_second")
SETTINGS: dict[str, Any] = {
    "data": {"source": "demo", "resolution": 16, "demo_scale": 0.02, "classes": list("01234")},
    "gan": {
        "z_dim": 8,
        "base_channels": 4,
        "embedding_dim": 4,
        "guide_steps": 3,
        "probe_every_kimg": None,
        "batch_size": 8,
        "total_kimg": 0.16,
        "status_every_kimg": 0.04,
        "samples_every_kimg": 0.08,
        "checkpoint_every_kimg": 0.032,
        "checkpoint_every_minutes": None,
        "precision": "fp32",
        "device": "cpu",
    },
    "balance": {"gate_tau": 0.1, "gate_steps": 3, "min_acceptance": 0.0},
    "classifier": {"name": "test_resnet", "steps": 4, "batch_size": 16, "device": "cpu"},
    "benchmark": {
        "arms": list(ARMS),
        "seeds": 2,
        "bootstrap_resamples": 100,
        "extractor_steps": 4,
    },
}


@pytest.mark.slow
def test_ten_kills_leave_no_trace(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert sum(KILLS.values()) == len(told["killed_in"]) == 10
    assert set(told["killed_in"]) == set(KILLS), told

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected, found = contents(whole), contents(killed)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    rows = expected["rows.jsonl"]
    assert [(row["arm"], row["seed"]) for row in rows] == [(a, s) for s in (0, 1) for a in ARMS]
    assert {"predictions/synthetic-seed1.npy", "fidelity.json", "results.csv"} <= expected.keys()
    assert any(name.startswith("gate/") for name in expected)
    assert any(name.startswith("extractor/") for name in expected)


def contents(run: Path) -> dict[str, Any]:
    """Every file of a benchmark by its path, without what the clock says and what shows it."""
    files: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_dir() or "curves" in name:
            continue
        text = path.read_bytes()
        if path.suffix == ".json":
            files[name] = without_clocks(json.loads(text))
        elif path.suffix == ".jsonl":
            files[name] = [without_clocks(json.loads(line)) for line in text.splitlines()]
        elif path.suffix == ".csv":
            header, *lines = [line.split(",") for line in text.decode().splitlines()]
            kept = [n for n, column in enumerate(header) if "seconds" not in column]
            files[name] = [[line[n] for n in kept] for line in (header, *lines)]
        elif path.suffix in (".md", ".html"):
            files[name] = "there"
        else:
            files[name] = text
    return files


def without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not any(clock in k for clock in CLOCKS)}
        return {key: without_clocks(inner) for key, inner in kept.items()}
    return [without_clocks(inner) for inner in value] if isinstance(value, list) else value


# --- the program ---------------------------------------------------------------------------------


def count_events(on_event: Callable[[], None]) -> None:
    """Calls ``on_event`` before each optimizer step, and before and after each change on disk.

    fsync itself is left out: a kill leaves the page cache, and waiting only takes time.
    """
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    def noting(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            on_event()
            result = real(*args, **options)
            on_event()
            return result

        return call

    register_optimizer_step_pre_hook(lambda *_: on_event())
    os.fsync = noting(lambda _descriptor: None)
    for name in ("replace", "rename", "mkdir", "unlink"):
        setattr(os, name, noting(getattr(os, name)))


def part_of(run: Path) -> str:
    """Which part of the job a benchmark is in, by what there is."""
    if (run / "rows.jsonl").exists():
        written = len((run / "rows.jsonl").read_bytes().splitlines())
        return "rows" if written < SETTINGS["benchmark"]["seeds"] * len(ARMS) else "report"
    return "measuring" if (run / "generator" / "generator.json").exists() else "GAN"


def life(
    run: Path, work: Callable[[Path], None], kill_at: tuple[str, int] | None = None
) -> tuple[int, dict[str, int]]:
    """Runs ``work`` in a fork; the signal that ended it (0: none), and its events in each part.

    kill_at: SIGKILL at the n-th event from this part on; without it, it comes to its end.
    """
    near, far = os.pipe()
    child = os.fork()
    if child == 0:
        seen = dict.fromkeys(KILLS, 0)
        start, nth = kill_at or ("", 0)
        begun = 0

        def on_event() -> None:
            nonlocal begun
            part = part_of(run)
            seen[part] += 1
            begun += begun > 0 or part == start
            if kill_at and begun == nth:
                os.kill(os.getpid(), signal.SIGKILL)

        count_events(on_event)
        work(run)
        os.write(far, json.dumps(seen).encode())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os.close(far)
    with os.fdopen(near) as told:
        events = json.loads(told.read() or "{}")
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status), events
    if os.WEXITSTATUS(status):
        sys.exit(f"the benchmark failed with exit code {os.WEXITSTATUS(status)}")
    return 0, events


def main(folder: Path) -> None:
    import torch

    from signforge.benchmark import runner
    from signforge.benchmark.job import run_main_job
    from signforge.config_file import validate
    from signforge.data.prepare import load_prepared_splits

    torch.set_num_threads(1)
    torch.optim.AdamW([torch.zeros(1)])  # imports what each life would import again
    warnings.simplefilter("ignore")
    os.environ["SIGNFORGE_CACHE"] = str(folder / "cache")
    # After every step: classifiers go on from where they were killed.
    runner.FitCheckpoint = partial(runner.FitCheckpoint, every_seconds=0.0)
    config = validate(SETTINGS, "test")
    splits = load_prepared_splits(config.data)

    def work(run: Path) -> None:
        run_main_job(config, splits, run, command="test")

    ended, events = life(folder / "whole", work)
    assert ended == 0
    rng, moments, killed_in = random.Random(SEED), [], []
    for part, kills in KILLS.items():
        for _ in range(kills):
            # What a part has left after a kill is at least a share of it.
            moments.append((part, rng.randrange(1, max(events[part] // kills, 2))))
            ended, _ = life(folder / "killed", work, moments[-1])
            assert ended == signal.SIGKILL, f"it came to its end before {moments[-1]}"
            killed_in.append(part_of(folder / "killed"))
    assert life(folder / "killed", work)[0] == 0
    told = {"events": events, "moments": moments, "killed_in": killed_in}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
