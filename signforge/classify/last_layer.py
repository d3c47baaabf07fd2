"""The last layer of a classifier: found, trained by itself, or made to give cosines."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from signforge.device import autocast
from signforge.errors import SignforgeError


class CosineLayer(nn.Linear):
    """Logits = scale * cosine of features and class weights (Wang et al. 2018, 1801.05599).

    float (N, in_features) -> float32 (N, out_features), also under autocast: in bf16 the scale
    would turn rounding into errors that count. Weights begin at random on the unit sphere.
    """

    def __init__(self, in_features: int, out_features: int, scale: float) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.scale = scale
        with torch.no_grad():
            self.weight.copy_(F.normalize(torch.randn_like(self.weight)))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name that nn.Linear gives it)
        with autocast(input.device, "fp32"):
            features, weight = F.normalize(input.float()), F.normalize(self.weight.float())
            return self.scale * F.linear(features, weight)


def last_layer(model: nn.Module) -> nn.Module:
    """The layer of a timm model that gives the logits.

    Raises SignforgeError for a model that does not have just one of them.
    """
    layer = getattr(model, "get_classifier", lambda: None)()
    if not isinstance(layer, nn.Module) or not any(True for _ in layer.parameters()):
        raise SignforgeError(
            f"{type(model).__name__} has no single last layer that could be trained by itself; "
            "choose another classifier.name, or leave out the arms that tune the last layer."
        )
    return layer


def freeze_all_but_last_layer(model: nn.Module) -> list[nn.Parameter]:
    """Stops the training of all other layers, norms and dropout included; returns what it froze.

    Raises SignforgeError as ``last_layer`` does.
    """
    kept = {id(parameter) for parameter in last_layer(model).parameters()}
    frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in kept]
    for parameter in frozen:
        parameter.requires_grad_(False)
    model.eval()
    return frozen


def make_last_layer_cosine(model: nn.Module, name: str, scale: float) -> None:
    """Puts a ``CosineLayer`` where ``model``, called ``name``, has its last layer.

    Raises SignforgeError for a last layer that is not linear.
    """
    layer = last_layer(model)
    if not isinstance(layer, nn.Linear):
        raise SignforgeError(
            f"The last layer of {name} is a {type(layer).__name__}, and only a linear one can "
            "give cosines; choose another classifier.name, or leave out ldam_drw."
        )
    (path,) = (path for path, module in model.named_modules() if module is layer)
    model.set_submodule(path, CosineLayer(layer.in_features, layer.out_features, scale))
