"""Cost of the GAN's training as it grows: 10 to 10,000 classes, and 32 to 128 pixels.

    python benchmarks/gan_scaling.py --config gtsrb_cpu --out scaling

Random images; every point in a fresh process, so that its memory is its own; several rounds over
all points, begun at another one each time. Memory is the peak resident size of the process (of
the GPU's allocator on a GPU) less what it held before networks and images were there.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from own_process import measure_in_own_process
from records import (
    command_line,
    markdown_table,
    provenance,
    provenance_text,
    run_script,
    write_json,
)
from step_cost import OurLoop, synchronise
from timing import rotated, spread

from signforge.benchmark.plots import COLORS
from signforge.config import GanConfig
from signforge.config_file import load_config, parse_override
from signforge.data.images import UNKNOWN_GROUP, LabeledImages
from signforge.device import resolve_device
from signforge.errors import SignforgeError
from signforge.gan.training import train_cgan

CLASSES = (10, 100, 1_000, 10_000)
RESOLUTIONS = (32, 64, 128)
FIXED_CLASSES, FIXED_RESOLUTION = 43, 32
MIB = 2**20


def random_images(num_classes: int, resolution: int) -> LabeledImages:
    """Two or more images a class, 1,024 or more in all."""
    n = max(2 * num_classes, 1024)
    rng = torch.Generator().manual_seed(0)
    return LabeledImages(
        images=torch.randint(
            0, 256, (n, 3, resolution, resolution), dtype=torch.uint8, generator=rng
        ),
        labels=torch.arange(n) % num_classes,
        groups=torch.full((n,), UNKNOWN_GROUP),
        class_names=tuple(str(label) for label in range(num_classes)),
        names=("",) * n,
        source="noise",
    )


def measure_point(
    config: GanConfig, num_classes: int, resolution: int, steps: int
) -> dict[str, float]:
    """One point in this process: speed, memory, parameters, and bytes on disk."""
    device = resolve_device(config.device)
    before = _held_bytes(device)
    train = random_images(num_classes, resolution)
    loop = OurLoop(config, train, device)
    for index in range(2):  # the first has the penalty, the second has not
        loop.step(index)
    synchronise(device)
    started = time.perf_counter()
    images = sum(loop.step(index) for index in range(steps))
    synchronise(device)
    seconds = time.perf_counter() - started
    memory = _peak_bytes(device) - before
    parameters = {
        "generator_parameters": sum(p.numel() for p in loop.state.generator.parameters()),
        "discriminator_parameters": sum(p.numel() for p in loop.state.discriminator.parameters()),
    }
    del loop
    with tempfile.TemporaryDirectory() as folder:
        one_step = {"total_kimg": config.batch_size / 1000, "max_minutes": None, "guide_steps": 1}
        train_cgan(config.model_copy(update=one_step), train, Path(folder) / "run")
        states = list((Path(folder) / "run" / "checkpoints").glob("*/state.safetensors"))
        checkpoint = max(path.stat().st_size for path in states)
        sampler = (Path(folder) / "run" / "generator.safetensors").stat().st_size
    return {
        "num_classes": num_classes,
        "resolution": resolution,
        "images_per_second": images / seconds,
        "memory_mib": memory / MIB,
        **parameters,
        "checkpoint_mib": checkpoint / MIB,
        "generator_mib": sampler / MIB,
    }


def _held_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _process_bytes("VmRSS")


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _process_bytes("VmHWM")


def _process_bytes(key: str) -> int:
    """Of Linux's account of this process; getrusage would begin at the parent's own peak."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        raise SignforgeError("Memory is read from /proc: run this benchmark on Linux.") from None
    (line,) = (line for line in lines if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def points(classes: Sequence[int], resolutions: Sequence[int]) -> list[tuple[int, int]]:
    """(classes, resolution) of both series, none twice."""
    both = [(n, FIXED_RESOLUTION) for n in classes] + [(FIXED_CLASSES, r) for r in resolutions]
    return list(dict.fromkeys(both))


def run_point(task: str) -> None:
    """In the process of its own: prints the point as JSON."""
    given = json.loads(task)
    torch.set_num_threads(given["threads"])
    config = GanConfig.model_validate(given["config"])
    print(json.dumps(measure_point(config, *given["point"], given["steps"])))


def summarise(rows: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """One entry a point: spread of the speed over the rounds, medians of the rest."""
    found: dict[tuple[float, float], list[Mapping[str, float]]] = {}
    for row in rows:
        found.setdefault((row["num_classes"], row["resolution"]), []).append(row)
    return [
        {
            key: spread([row[key] for row in same])
            if key == "images_per_second"
            else spread([row[key] for row in same]).median
            for key in same[0]
        }
        for _, same in sorted(found.items())
    ]


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    header = [
        "classes",
        "pixels",
        "images/s",
        "memory, MiB",
        "G, M parameters",
        "D, M parameters",
        "checkpoint, MiB",
        "generator, MiB",
    ]
    lines = [
        [
            f"{entry['num_classes']:,.0f}",
            f"{entry['resolution']:.0f}",
            f"{entry['images_per_second']:.1f}",
            f"{entry['memory_mib']:.0f}",
            f"{entry['generator_parameters'] / 1e6:.2f}",
            f"{entry['discriminator_parameters'] / 1e6:.2f}",
            f"{entry['checkpoint_mib']:.1f}",
            f"{entry['generator_mib']:.1f}",
        ]
        for entry in entries
    ]
    return markdown_table(header, lines)


def plot(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Speed and memory over classes (left) and over resolution (right), on logarithmic axes."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    series = (
        ("num_classes", f"classes at {FIXED_RESOLUTION} pixels", "resolution", FIXED_RESOLUTION),
        ("resolution", f"pixels at {FIXED_CLASSES} classes", "num_classes", FIXED_CLASSES),
    )
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (key, title, other, fixed) in zip(panels, series, strict=True):
        chosen = sorted((e for e in entries if e[other] == fixed), key=lambda e: e[key])
        x = [entry[key] for entry in chosen]
        rates = [entry["images_per_second"] for entry in chosen]
        errors = [
            [rate.median - rate.low for rate in rates],
            [rate.high - rate.median for rate in rates],
        ]
        medians = [rate.median for rate in rates]
        axes.errorbar(x, medians, yerr=errors, marker="o", color=COLORS[0], label="images/s")
        memory = [max(entry["memory_mib"], 1.0) for entry in chosen]
        axes.plot(x, memory, marker="s", color=COLORS[1], label="memory, MiB")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(x, [f"{value:,.0f}" for value in x])
        axes.minorticks_off()
        axes.set_xlabel(title)
        axes.grid(color="0.9")
        axes.set_axisbelow(True)
        axes.legend()
    return figure


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="gtsrb_cpu", help="preset or YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--resolutions", type=int, nargs="+", default=RESOLUTIONS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="folder for scaling.json, .md and .png")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.point:
        run_point(options.point)
        return
    overrides = [parse_override(text) for text in options.set]
    config = load_config(options.config, overrides).gan
    every = config.r1_every_steps
    steps = -(-options.steps // every) * every
    wanted, rows = points(options.classes, options.resolutions), []
    settings = {"config": config.model_dump(mode="json"), "steps": steps}
    for number in range(options.rounds):
        for point in rotated(wanted, number):
            task = {**settings, "point": point, "threads": options.threads}
            name = f"{point[0]} classes at {point[1]} pixels"
            rows.append(measure_in_own_process(__file__, task, name))
    origin = provenance(command_line(__file__, argv))
    entries = summarise(rows)
    text = provenance_text(origin) + f"\nBatch {config.batch_size}.\n\n" + table(entries)
    print(text)
    if options.out:
        write_json(options.out / "scaling.json", {"origin": origin, "rows": rows})
        (options.out / "scaling.md").write_text(text, encoding="utf-8")
        plot(entries).savefig(options.out / "scaling.png", dpi=120)


if __name__ == "__main__":
    raise SystemExit(run_script(main))
