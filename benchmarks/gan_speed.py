"""Images per second of the GAN's training against a plain loop, torch-mimicry and a matrix product.

    python benchmarks/gan_speed.py --config gtsrb_cpu --data GTSRB --threads 1 2 --out speed
    python benchmarks/gan_speed.py --config gtsrb_cpu --data GTSRB --profile

All in one process, in turns, begun at another one every round; ratios are taken round by round.
An image is a real image shown to the discriminator. The plain loop trains the same networks
with the same loss, penalty and augmentation (baselines/plain_loop.py). torch-mimicry trains its
own, much larger network, five discriminator updates to one of the generator as published, so
compare its operations per second, not its images. The EMA counts as ours, the others have none.
Freed memory stays in the process, as under the command line, for all alike.
``share`` is our operations per second over those of a bf16 matrix product: of one square product
with as many operations as a step, of one of 2048 x 2048 x 2048, and of the products that our
networks' convolutions amount to (im2col), one after another.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from baselines.mimicry_pd import MimicryPd
from baselines.plain_loop import PlainLoop
from matplotlib.figure import Figure
from records import (
    command_line,
    markdown_table,
    provenance,
    provenance_text,
    run_script,
    write_json,
)
from step_cost import (
    OurLoop,
    Product,
    ProductTimer,
    convolution_products,
    flops_per_image,
    profile_steps,
    square_product,
    synchronise,
)
from timing import Spread, ratio_spread, rotated, spread

from signforge.allocator import keep_freed_memory
from signforge.benchmark.plots import COLORS
from signforge.config import Config
from signforge.config_file import load_config, parse_override
from signforge.data.images import LabeledImages
from signforge.data.prepare import load_prepared_splits
from signforge.device import resolve_device, use_bf16
from signforge.errors import SignforgeError

ARMS = ("ours", "plain", "plain-2-workers", "mimicry")
FLOPS_BATCH = 4
"""torch-mimicry's operations are counted at this batch size; they are linear in it."""


@dataclass
class Contender:
    """Something timed in every round."""

    name: str
    step: Callable[[int], int]
    steps: int
    """In a round."""
    flops_per_image: float
    device: torch.device
    rates: list[float] = field(default_factory=list)
    """Images per second, one a round."""
    done: int = 0

    def run_round(self) -> None:
        synchronise(self.device)
        started, images = time.perf_counter(), 0
        for _ in range(self.steps):
            images += self.step(self.done)
            self.done += 1
        synchronise(self.device)
        self.rates.append(images / (time.perf_counter() - started))

    @property
    def flop_rates(self) -> list[float]:
        return [rate * self.flops_per_image for rate in self.rates]


def build_contenders(
    config: Config, train: LabeledImages, arms: Sequence[str], steps: int, mimicry_steps: int
) -> list[Contender]:
    """Ours always comes first; steps of a round are rounded up to whole rounds of the penalty."""
    gan, device = config.gan, resolve_device(config.gan.device)
    every = gan.r1_every_steps
    whole = -(-steps // every) * every
    counted = OurLoop(gan.model_copy(update={"compile": False}), train, device)
    cost = flops_per_image(counted.step, every)
    contenders = [Contender("ours", OurLoop(gan, train, device).step, whole, cost, device)]
    for name, workers in (("plain", 0), ("plain-2-workers", 2)):
        if name in arms:
            loop = PlainLoop(gan, train, device, num_workers=0)
            cost = flops_per_image(loop.step, every)
            loop = PlainLoop(gan, train, device, num_workers=workers)
            contenders.append(Contender(name, loop.step, whole, cost, device))
    if "mimicry" in arms:
        small = MimicryPd(train, seed=0, device=device, batch_size=FLOPS_BATCH)
        cost = flops_per_image(lambda _index: small.step(), 1)
        full = MimicryPd(train, seed=0, device=device, batch_size=gan.batch_size)
        contenders.append(
            Contender("mimicry", lambda _index: full.step(), mimicry_steps, cost, device)
        )
    return contenders


def products_to_compare(loop: OurLoop, step_flops: float) -> dict[str, list[Product]]:
    return {
        "square, operations of a step": [square_product(step_flops)],
        "2048 x 2048 x 2048": [Product(2048, 2048, 2048)],
        "our convolutions' shapes": convolution_products(loop),
    }


def measure(
    contenders: Sequence[Contender], products: dict[str, ProductTimer], rounds: int, seconds: float
) -> dict[str, Any]:
    """Rates of every contender and product, one a round; all warm up for half a round first."""
    for contender in contenders:
        for index in range(max(1, contender.steps // 2)):
            contender.step(index)
    product_rates: dict[str, list[float]] = {name: [] for name in products}
    for number in range(rounds):
        for contender in rotated(contenders, number):
            contender.run_round()
        for name in rotated(list(products), number):
            product_rates[name].append(products[name].flops_per_second(seconds))
    return {
        "rounds": [
            {
                "contender": contender.name,
                "images_per_second": contender.rates,
                "steps_per_round": contender.steps,
                "flops_per_image": contender.flops_per_image,
            }
            for contender in contenders
        ],
        "product_flops_per_second": product_rates,
    }


def summarise(measured: dict[str, Any]) -> str:
    """Two Markdown tables: contenders, and shares of the products' rates."""
    ours = measured["rounds"][0]
    rows = []
    for entry in measured["rounds"]:
        rates, cost = entry["images_per_second"], entry["flops_per_image"]
        speedup = ratio_spread(ours["images_per_second"], rates)
        flops = ratio_spread(
            [rate * ours["flops_per_image"] for rate in ours["images_per_second"]],
            [rate * cost for rate in rates],
        )
        gigaflops: Spread = spread([rate * cost / 1e9 for rate in rates])
        rows.append(
            [
                entry["contender"],
                f"{spread(rates):.1f}",
                f"{speedup:.2f}",
                f"{cost / 1e9:.3f}",
                f"{gigaflops:.1f}",
                f"{flops:.2f}",
            ]
        )
    header = [
        "loop",
        "images/s",
        "ours is faster by",
        "Gflop/image",
        "Gflop/s",
        "ours / its flop/s",
    ]
    text = markdown_table(header, rows) + "\n"
    shares = []
    for name, rates in measured["product_flops_per_second"].items():
        achieved = [rate * ours["flops_per_image"] for rate in ours["images_per_second"]]
        giga = spread([rate / 1e9 for rate in rates])
        shares.append([name, f"{giga:.1f}", f"{ratio_spread(achieved, rates):.3f}"])
    precision = measured["product_precision"]
    return text + markdown_table([f"{precision} product", "Gflop/s", "share we reach"], shares)


def plot(results: Sequence[Mapping[str, Any]]) -> Figure:
    """One panel a number of threads: Gflop/s of every loop and, below, of the products."""
    figure = Figure(figsize=(3 + 3.5 * len(results), 3.2), layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, measured in zip(panels, results, strict=True):
        loops = {
            entry["contender"]: spread(
                [rate * entry["flops_per_image"] / 1e9 for rate in entry["images_per_second"]]
            )
            for entry in measured["rounds"]
        }
        products = {
            f"{measured['product_precision']} product: {name}": spread([r / 1e9 for r in rates])
            for name, rates in measured["product_flops_per_second"].items()
        }
        bars = {**loops, **products}
        axes.barh(
            list(bars),
            [bar.median for bar in bars.values()],
            xerr=[
                [bar.median - bar.low for bar in bars.values()],
                [bar.high - bar.median for bar in bars.values()],
            ],
            color=[COLORS[0]] + [COLORS[1]] * (len(loops) - 1) + ["0.7"] * len(products),
            ecolor="0.3",
        )
        axes.set_xlabel(f"Gflop/s, {measured['threads']} threads")
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
    panels[0].invert_yaxis()
    return figure


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="gtsrb_cpu", help="preset or YAML file")
    parser.add_argument("--data", default="demo", help="as for signforge train-cgan")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--threads", type=int, nargs="+", help="default: all cores")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=16, help="of ours and plain in a round")
    parser.add_argument("--mimicry-steps", type=int, default=1, help="5 batches each, by the paper")
    parser.add_argument("--product-seconds", type=float, default=0.5)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--profile", action="store_true", help="where our step's time goes")
    parser.add_argument("--out", type=Path, help="folder for speed.json, .md and .png")
    options = parser.parse_args(argv)
    if options.rounds < 1 or options.steps < 1 or options.mimicry_steps < 1:
        raise SignforgeError("--rounds, --steps and --mimicry-steps must be at least 1.")
    overrides = [parse_override(text) for text in options.set]
    config = load_config(options.config, [*overrides, ("data.source", options.data)])
    train = load_prepared_splits(config.data).train
    origin = provenance(command_line(__file__, argv))
    keep_freed_memory()
    text, results = provenance_text(origin), []
    before = torch.get_num_threads()
    for threads in options.threads or [before]:
        torch.set_num_threads(threads)
        text += f"\n## {threads} threads\n\n"
        if options.profile:
            text += _profile(config, train, options.steps)
            continue
        measured = _measure(config, train, options)
        results.append({"threads": threads, **measured})
        text += summarise(measured)
    torch.set_num_threads(before)
    print(text)
    if options.out:
        name = "profile" if options.profile else "speed"
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{name}.md").write_text(text, encoding="utf-8")
        if results:
            write_json(options.out / "speed.json", {"origin": origin, "results": results})
            plot(results).savefig(options.out / "speed.png", dpi=120)


def _measure(config: Config, train: LabeledImages, options: argparse.Namespace) -> dict[str, Any]:
    contenders = build_contenders(config, train, options.arms, options.steps, options.mimicry_steps)
    device, gan = resolve_device(config.gan.device), config.gan
    compared = products_to_compare(
        OurLoop(gan.model_copy(update={"compile": False}), train, device),
        contenders[0].flops_per_image * gan.batch_size,
    )
    timers = {
        name: ProductTimer(products, device, gan.precision) for name, products in compared.items()
    }
    return {
        "batch_size": gan.batch_size,
        "product_precision": "bf16" if use_bf16(device, gan.precision) else "fp32",
        "products": {name: [vars(p) for p in products] for name, products in compared.items()},
        **measure(contenders, timers, options.rounds, options.product_seconds),
    }


def _profile(config: Config, train: LabeledImages, steps: int) -> str:
    loop = OurLoop(config.gan, train, resolve_device(config.gan.device))
    every = config.gan.r1_every_steps
    table, phases = profile_steps(loop, -(-steps // every) * every)
    total = sum(phases.values())
    rows = [
        [name, f"{seconds * 1e3:.2f}", f"{seconds / total:.1%}"]
        for name, seconds in sorted(phases.items(), key=lambda item: -item[1])
    ]
    rows.append(["sum", f"{total * 1e3:.2f}", f"{1:.1%}"])
    return markdown_table(["phase", "ms a step", "share"], rows) + f"\n```\n{table}\n```\n"


if __name__ == "__main__":
    raise SystemExit(run_script(main))
