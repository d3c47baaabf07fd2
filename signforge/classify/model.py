"""Any timm classifier by name, fitted to small images.

ResNets lose three quarters of a 32x32 image before their first block; the smaller stem here
follows the CIFAR variant of He et al. 2016 (1512.03385, section 4.2), with the stride kept.
"""

import difflib
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from signforge.classify.last_layer import make_last_layer_cosine
from signforge.errors import SignforgeError

SMALL_IMAGE_RESOLUTION = 64
"""Largest height and width in pixels for which a stem loses less of them than timm's."""


def build_classifier(
    name: str,
    *,
    num_classes: int,
    resolution: int,
    pretrained: bool,
    seed: int,
    cosine_scale: float | None = None,
) -> nn.Module:
    """The timm model ``name`` for float32 (N, 3, resolution, resolution) -> (N, num_classes).

    The same seed gives the same initial weights; the global random state is left as it was. The
    model is on the CPU, in training mode, and carries ``resolution`` for later checks.

    cosine_scale: makes the last layer a ``CosineLayer`` of this scale; the weights of the other
        layers are the same with and without.

    Raises SignforgeError for an unknown name (with the closest match), a resolution that the
    model cannot take, pretrained weights that cannot be had, and a last layer that is not linear
    where it should give cosines.
    """
    # is_model also keeps out hf-hub: and local-dir: names, which would load foreign configs.
    if not timm.is_model(name):
        closest = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = f"did you mean {closest[0]}?" if closest else "see timm.list_models()."
        raise SignforgeError(f"Unknown classifier {name!r}: timm has no such model; {hint}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: Any = _create(name, num_classes, resolution, pretrained)
        if resolution <= SMALL_IMAGE_RESOLUTION:
            _shrink_stem(model, keep_weights=pretrained)
        if cosine_scale is not None:
            make_last_layer_cosine(model, name, cosine_scale)
    _try_resolution(model, name, resolution)
    model.resolution = resolution
    return cast(nn.Module, model.train())


def _create(name: str, num_classes: int, resolution: int, pretrained: bool) -> nn.Module:
    cfg = timm.get_pretrained_cfg(name)
    # Transformers and the like are built for one size; the others take any and know no img_size.
    fixed = cfg is not None and cfg.fixed_input_size
    size: dict[str, Any] = {"img_size": resolution} if fixed else {}
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **size)
    except Exception as error:  # timm, hub clients and models share no exception type
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if pretrained:
            raise SignforgeError(
                f"Pretrained weights of {name} cannot be loaded: {reason} "
                "(check the network, or set classifier.pretrained=false)."
            ) from None
        raise SignforgeError(
            f"Classifier {name} cannot be built at {resolution}x{resolution}: {reason}"
        ) from None


def _shrink_stem(model: Any, *, keep_weights: bool) -> None:
    """Where the stem is a 7x7/2 ``conv1`` and ``maxpool``: a 3x3/2 convolution, no pooling. Where
    it is a ``conv_stem`` of stride 2 (MobileNet, EfficientNet): stride 1, the weights as they are.
    """
    stem = getattr(model, "conv_stem", None)
    if isinstance(stem, nn.Conv2d) and stem.stride == (2, 2):
        stem.stride = (1, 1)
        return
    conv, pool = getattr(model, "conv1", None), getattr(model, "maxpool", None)
    if not isinstance(conv, nn.Conv2d) or not isinstance(pool, nn.MaxPool2d):
        return
    if conv.kernel_size != (7, 7) or conv.stride != (2, 2):
        return
    small = nn.Conv2d(conv.in_channels, conv.out_channels, 3, 2, 1, bias=conv.bias is not None)
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    if keep_weights:
        with torch.no_grad():
            small.weight.copy_(conv.weight[:, :, 2:5, 2:5])
            if small.bias is not None and conv.bias is not None:
                small.bias.copy_(conv.bias)
    model.conv1 = small
    model.maxpool = nn.Identity()


def _try_resolution(model: nn.Module, name: str, resolution: int) -> None:
    """One blank image through the model: the only test of a resolution that holds for all."""
    model.eval()
    hooks = [
        module.register_forward_pre_hook(_drop_idle_stride)
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, resolution, resolution))
    except Exception as error:  # whatever a model raises on a size it was not made for
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise SignforgeError(
            f"Classifier {name} cannot take {resolution}x{resolution} images: {reason} "
            "(choose another classifier.name or data.resolution)."
        ) from None
    finally:
        for hook in hooks:
            hook.remove()


def _drop_idle_stride(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Stride 1 for a padded convolution over a 1x1 map, where every stride gives the same map.

    With a larger stride the bf16 weight gradient of oneDNN (torch 2.14, CPU) leaves the taps that
    see only padding uninitialised: NaN now and then, and never the same twice.
    """
    assert isinstance(module, nn.Conv2d)
    if isinstance(module.padding, str):  # "same" exists for stride 1 only, "valid" pads nothing
        return
    centred = tuple(2 * pad + 1 for pad in module.padding) == module.kernel_size
    if centred and inputs[0].shape[-2:] == (1, 1):
        module.stride = (1, 1)
