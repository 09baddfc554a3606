"""Feeding a sans-I/O processor from Kafka, exactly once.

`processor` has the contract, `worker` the loop. In the order in which a record meets them: `kafka` (clients, topics),
`restore` (what was committed becomes a state, through `snapshot` and the recorded steps), `partition` (what is gathered
for the next step), `clock` and `idle` (what time it is, also where nothing moves), `steps` (one step and its record),
`transaction` (all of it at once, `overdue` when that never ends), `health`. `failures` says why a worker stops.
"""
