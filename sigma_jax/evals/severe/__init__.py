"""SEVERE: eight scores of generalisation, with repetition counting and multi-label classification."""
