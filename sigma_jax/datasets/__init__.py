"""What is done once, on any machine: listings, classes, payloads and the writing of shards."""
