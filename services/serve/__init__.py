"""Real-time serving: answers predictions over HTTP, follows `promote`, and hands every answer's event to Kafka.

In the order in which a request flows: `app` (HTTP), `requests` (what a body may say), `predict` (the hot path),
`routing` (who answers whom), `loading` (models that answer), `outbox` over `segments` (events on their way to Kafka);
beside them `follow` (the desired state comes in, the status goes out) and `run` (the process).
"""
