"""Stores a run's generator in bfloat16, half as big, to be passed on without its run.

python benchmarks/shrink_generator.py RUN OUT
"""

import sys
from pathlib import Path

import torch

from signforge.errors import SignforgeError
from signforge.gan.sampler import load_sampler, save_sampler


def main(run: str, out: str) -> None:
    sampler = load_sampler(run, "cpu")
    save_sampler(Path(out), sampler.generator, sampler.card, torch.bfloat16)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except SignforgeError as error:
        sys.exit(f"Error: {error}")
