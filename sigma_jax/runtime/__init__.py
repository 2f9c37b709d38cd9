"""The process and its devices: config, processes that meet, mesh and sharding rules, random streams, compilation."""
