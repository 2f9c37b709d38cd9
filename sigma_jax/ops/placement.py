"""Sharding constraints on arrays inside a jitted function; without a mesh they do nothing.

The mesh is that of the context in which the function is traced (`runtime.sharding.traced_on`), so that models need not
be given one.
"""

import jax


def split_clips(x: jax.Array) -> jax.Array:
    """Shards x [B ...] by clips over all axes of the mesh; left as it is where the devices do not divide B.

    Without this constraint XLA's partitioner may follow parameters that are sharded over `fsdp`, shard activations by
    width, and exchange activations between devices: bytes that grow with the batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1 or len(x) % mesh.size:
        return x
    return jax.lax.with_sharding_constraint(x, jax.P(mesh.axis_names))


def flip_clips(x: jax.Array) -> jax.Array:
    """Reverses the order of the clips of x [B ...] within each device, so that no clip crosses devices.

    Where a device has an odd number of clips, the middle one would keep its place: then the whole batch is reversed.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1 or len(x) % (2 * mesh.size):
        return x[::-1]
    rows = split_clips(x.reshape(mesh.size, -1, *x.shape[1:]))
    return split_clips(split_clips(rows[:, ::-1]).reshape(x.shape))


def gathered(tree):
    """Replicates arrays on every device: the sharded parameters of a block are gathered when the block needs them."""
    if jax.sharding.get_abstract_mesh().size <= 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, jax.P()), tree)
