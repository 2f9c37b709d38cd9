"""Where arrays lie inside a traced step, said from the mesh of the context; without one, nothing is said.

Whoever jits a step traces it with its mesh as context (`runtime.sharding.traced_on`), so that models need not know it.
"""

import jax


def split_clips(x: jax.Array) -> jax.Array:
    """x [B ...] with its clips over all axes of the mesh, where they divide.

    Parameters that are split over `fsdp` would otherwise tempt the partitioner to split activations by width, and to
    exchange them: bytes that grow with the batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1 or len(x) % mesh.size:
        return x
    return jax.lax.with_sharding_constraint(x, jax.P(mesh.axis_names))


def flip_clips(x: jax.Array) -> jax.Array:
    """x [B ...] with its clips in reverse order within each device's rows, so that none crosses devices.

    Where a device has an odd number of clips, whose middle one would stay, the whole batch is reversed.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1 or len(x) % (2 * mesh.size):
        return x[::-1]
    rows = split_clips(x.reshape(mesh.size, -1, *x.shape[1:]))
    return split_clips(split_clips(rows[:, ::-1]).reshape(x.shape))


def whole(tree):
    """Arrays with a copy on every device: parameters of a block, gathered when the block needs them."""
    if jax.sharding.get_abstract_mesh().size <= 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, jax.P()), tree)
