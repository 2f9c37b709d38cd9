"""What crosses devices in a compiled step."""

import re

import jax
import numpy as np

COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(.*")
SHAPE = re.compile(r"(?:f32|bf16|f16|s32|u32|u8|pred|s64|f64)\[([\d,]*)\]")


def check_nothing_grows_with_the_batch(text: str, params, clips_per_device: int, fsdp: int) -> None:
    """Only gradients, parameters, scalars and K-vectors cross devices.

    What grows with the batch has a multiple of `clips_per_device` elements, which is a number that divides the size of
    no parameter.
    """
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    assert all(size % clips_per_device for size in sizes), "a parameter could be taken for a part of the batch"
    found = [
        (match[2], int(np.prod([int(n) for n in dims.split(",") if n])))
        for match in COLLECTIVE.finditer(text)
        for dims in SHAPE.findall(match[1])
    ]
    assert {kind for kind, _ in found} == ({"all-reduce", "all-gather"} if fsdp > 1 else {"all-reduce"})
    assert not [(kind, size) for kind, size in found if size % clips_per_device == 0 or size > max(sizes)]
