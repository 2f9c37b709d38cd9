"""Files of weights, ours and others': names, sizes, formats in and out, strict loading, frozen models."""
