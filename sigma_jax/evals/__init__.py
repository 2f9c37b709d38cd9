"""Evaluation of parameters: an evaluator (protocol.py) yields named numbers."""
