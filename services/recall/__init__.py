"""What the join has put away and needs again, from ClickHouse: docs/recall.md is the contract with the join.

Reading order: `table` (every recallable record once more, ordered by request), `answer` (rows become answers; pure),
`waiting` (which questions may be answered, in which order; pure), `run` (the process).
"""
