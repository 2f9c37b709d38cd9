"""Files of weights, ours and published ones: names, sizes, formats to read and write, strict loading, frozen models."""
