"""``train.py --device-modules signforge_timm`` makes ``--dataset torch/signforge`` known to timm.

timm imports the modules that ``--device-modules`` names before it builds data sets; importing this
one adds an entry to the table in which ``timm.data.create_dataset`` looks up ``torch/`` names.
"""

import timm
from timm.data import dataset_factory

from signforge import SignforgeError
from signforge_timm.datasets import NAME, BalancedTraining, PilImages, signforge_dataset

__all__ = ["NAME", "BalancedTraining", "PilImages", "signforge_dataset"]

_known = getattr(dataset_factory, "_TORCH_BASIC_DS", None)
if not isinstance(_known, dict):
    raise SignforgeError(
        f"timm {timm.__version__} no longer keeps its torch/ data sets in "
        "timm.data.dataset_factory._TORCH_BASIC_DS, where signforge_timm adds its own: use a "
        "version of timm that the README of signforge-timm names, or a newer signforge-timm."
    )
_known[NAME] = signforge_dataset
