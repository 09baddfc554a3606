"""The join beside its peers: the same topics, one run, one machine, one table.

`history` makes the log, `peer` says what a peer is, `peers/` has them, `meter` and `bout` run one and measure it,
`truth` judges what it wrote. `weir` is our own process; `state`, `latency` and `scenes` measure what only we are asked.
"""
