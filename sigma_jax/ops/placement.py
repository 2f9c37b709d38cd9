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


def whole(tree):
    """Arrays with a copy on every device: parameters of a block, gathered when the block needs them."""
    if jax.sharding.get_abstract_mesh().size <= 1:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, jax.P()), tree)
