"""The page and JSON edge: what happens live, what happened, and a door for events that come over HTTP.

`history` and `pipeline` answer from ClickHouse and Kafka's offsets, `live` tails the topics that people watch, `ingest`
takes events, `page/` is the page: plain files, no build step. The process keeps no state of its own.
"""
