"""Intake: a team's own topics and tables become predictions, labels and signals, without the team changing anything.

`mapper.py` is the arithmetic (a decoded document and what is known of it give events, or a reasoned refusal) and knows
neither Kafka nor a database; `kafka.py` and `sql.py` are the sources, `run.py` the process.
"""
