"""Feeding a sans-I/O processor from Kafka, exactly once.

`processor` has the contract, `worker` the loop, `clock` the partition's clock, `restore` snapshots and replay.
"""
