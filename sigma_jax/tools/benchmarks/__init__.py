"""What `sigma_jax.tools.bench` can measure: one module per mode, with `measure(overrides) -> row`."""
