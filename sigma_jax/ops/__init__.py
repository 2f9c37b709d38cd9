"""Pure array functions: no Flax, no config, no I/O."""
