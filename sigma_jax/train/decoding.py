"""The decoder that a config asks for."""

from typing import Any

from sigma_jax.data.decoders import Decoding


def decoding_of(config: Any) -> Decoding:
    """Which library decodes videos and how long one may take; ValueError where it is not installed."""
    return Decoding(config.data.decoder, config.data.decode_timeout)
