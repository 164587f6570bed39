"""The simulator: the product's own relay, fan_out, deliver, rebuild and readers under a seeded scheduler.

Real are all decisions: the Python code of these parts, the shard map as each process knows it, the coordinator, and
lua/timelines.lua. In memory are the servers: Redis nodes (redis_server.py), the log and its group (broker.py),
ZooKeeper (znodes.py), the database (database.py, whose statements.py answers each SQL statement as PostgreSQL does).
scheduler.py lets one actor at a time take one step; faults.py breaks things; oracle.py says what must hold. One number,
the seed, decides everything, so a failure replays.
"""
