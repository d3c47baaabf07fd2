"""signforge: balance rare image classes with one conditional DCGAN, and measure the gain."""

from importlib.metadata import version

from signforge.balance.dataset import SyntheticBalancedDataset
from signforge.balance.device_loader import OnDeviceLoader
from signforge.balance.lighting import BorrowedLight
from signforge.balance.plan import BalancePlan
from signforge.balance.strategy import resolve_sampling_strategy
from signforge.config import Config, DataConfig
from signforge.config_file import load_config
from signforge.data.folders import from_dataset
from signforge.data.images import LabeledImages, LabeledSplits
from signforge.data.prepare import load_prepared_splits
from signforge.data.splits import PreparedSplits, long_tail, split_by_group
from signforge.errors import SignforgeError
from signforge.gan.sampler import ClassConditionalSampler, GanSampler, load_sampler

__version__ = version("signforge")

__all__ = [
    "BalancePlan",
    "BorrowedLight",
    "ClassConditionalSampler",
    "Config",
    "DataConfig",
    "GanSampler",
    "LabeledImages",
    "LabeledSplits",
    "OnDeviceLoader",
    "PreparedSplits",
    "SignforgeError",
    "SyntheticBalancedDataset",
    "from_dataset",
    "load_config",
    "load_prepared_splits",
    "load_sampler",
    "long_tail",
    "resolve_sampling_strategy",
    "split_by_group",
]
