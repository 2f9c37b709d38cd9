"""Flags of the commands that read weights."""

import argparse

from sigma_jax.weights.formats import WHICH


def add_weights_flags(parser: argparse.ArgumentParser, *, decoder: bool = False) -> None:
    """--weights, --num_heads and (decoder) --decoder_num_heads: what `read_weights` cannot learn from its path."""
    parser.add_argument("--weights", choices=WHICH, default="model", help="ema: averaged weights")
    parser.add_argument("--num_heads", type=int, help="where the weights do not say and width / 64 is wrong")
    if decoder:
        parser.add_argument("--decoder_num_heads", type=int, help="likewise of the decoder")
