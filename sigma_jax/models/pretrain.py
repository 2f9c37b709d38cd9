"""The networks of pre-training under one parameter tree: encoder, decoder and projection network.

Letters: B clips, V visible, M hidden tubes, P numbers in a tube, E target width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from sigma_jax.models.compute import Compute
from sigma_jax.models.decoder import Decoder
from sigma_jax.models.encoder import Encoder
from sigma_jax.models.projection import ProjectionNetwork
from sigma_jax.models.sizes import VideoSize
from sigma_jax.models.transformer import REMAT_POLICIES
from sigma_jax.ops.tubes import TubeGrid
from sigma_jax.runtime.errors import InvalidValue


class PretrainModel(nn.Module):
    """Parameters: encoder, decoder, and for SIGMA-MLP projection; the prototypes belong to the task (prototypes.py)."""

    grid: TubeGrid
    size: VideoSize
    target_width: int
    projection_widths: tuple[int, ...] = ()  # (): projections are the targets themselves
    positions: str = "sincos_1d"
    final_norm: bool = True  # of the encoder
    compute: Compute = Compute()

    def setup(self):
        shared = {"positions": self.positions, "compute": self.compute}
        self.encoder = Encoder(self.grid, self.size, final_norm=self.final_norm, **shared)
        self.decoder = Decoder(self.grid, self.size, self.target_width, **shared)
        if self.projection_widths:
            if self.projection_widths[-1] != self.target_width:
                raise InvalidValue(
                    f"the projection network ends at width {self.projection_widths[-1]}, but predictions have "
                    f"{self.target_width}: they must agree"
                )
            policy = REMAT_POLICIES[self.compute.remat]
            network = nn.remat(ProjectionNetwork, policy=policy) if policy else ProjectionNetwork
            self.projection = network(self.projection_widths, self.compute.dtype)

    def __call__(self, video: jax.Array, visible_idx: jax.Array, masked_idx: jax.Array) -> jax.Array:
        """video [B F H W 3] (uint8, or float in [0, 1]), visible_idx [B V], masked_idx [B M] -> predictions [B M E]."""
        predictions = self.decoder(self.encoder(video, visible_idx), visible_idx, masked_idx)
        if self.is_initializing() and self.projection_widths:
            self.projection(jnp.zeros((1, 1, self.grid.tube_dim)))
        return predictions

    def project(self, targets: jax.Array) -> jax.Array:
        """targets [B M P or E] -> projections [B M E]: the projection network, or the identity."""
        return self.projection(targets) if self.projection_widths else targets

    def encode(self, video: jax.Array) -> jax.Array:
        """video -> latents of all tubes [B N D]."""
        return self.encoder(video)

    def collect(self, video: jax.Array, visible_idx: jax.Array, masked_idx: jax.Array) -> dict[str, jax.Array]:
        """Intermediates of the forward pass, named as in tests/goldens/README.md; for parity tests."""
        latents, enc = self.encoder(video, visible_idx, collect=True)
        predictions, dec = self.decoder(latents, visible_idx, masked_idx, collect=True)
        return {
            "enc_block0": enc["blocks"][0],
            "enc_out": latents,
            "enc_to_dec": dec["embedded"],
            "dec_in": dec["input"],
            "dec_block0": dec["blocks"][0],
            "x": predictions,
        }
