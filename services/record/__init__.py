"""Every event of the namespace into ClickHouse, each position once.

Reading order: `columns` (what an event's class becomes), `tables` (one table per topic, and its exact view), `rows`
(records to Arrow), `land` (inserting, patiently), `run` (the process), `residual` (does it agree with the join?).
"""
