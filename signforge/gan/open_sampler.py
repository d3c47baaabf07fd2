"""open_sampler: a generator by path, by address on the Hub, or by the name of a plugin."""

import os

from signforge.errors import SignforgeError
from signforge.gan.sampler import ClassConditionalSampler, load_sampler
from signforge.plugins import make_from_plugin, parse_plugin_address


def open_sampler(source: str | os.PathLike[str], device: str = "auto") -> ClassConditionalSampler:
    """What draws the images: a generator of this package, or a sampler that a plugin makes.

    source: as for ``load_sampler``, or ``plugin:NAME:ARGUMENT`` for a plugin of the entry-point
        group ``signforge.samplers``, which chooses its own device.

    Raises SignforgeError as ``load_sampler`` and ``make_from_plugin`` do, and where a plugin
    returns no ClassConditionalSampler.
    """
    address = parse_plugin_address(os.fspath(source))
    if address is None:
        return load_sampler(source, device)
    sampler: object = make_from_plugin("sampler", address)
    if not isinstance(sampler, ClassConditionalSampler):
        raise SignforgeError(
            f"The sampler '{address.name}' returns a {type(sampler).__name__}, which lacks members "
            "of a ClassConditionalSampler; signforge.testing.check_sampler names them."
        )
    return sampler
