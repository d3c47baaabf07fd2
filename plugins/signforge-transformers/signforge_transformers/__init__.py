"""signforge-transformers: signforge with Hugging Face's Trainer and Hugging Face data sets."""

from signforge_transformers.callback import EpochInStep
from signforge_transformers.hub import ImageLabelPairs, to_labeled_images
from signforge_transformers.items import DictItems, PixelCollator

__all__ = ["DictItems", "EpochInStep", "ImageLabelPairs", "PixelCollator", "to_labeled_images"]
