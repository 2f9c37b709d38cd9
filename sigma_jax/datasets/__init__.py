"""Making data sets, which is done once on any machine: lists of videos, classes, payloads, and writing shards."""
