"""Commands: python -m sigma_jax.tools.<name>."""
