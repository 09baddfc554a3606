"""The embedded parts: a real Kafka and a real ClickHouse engine, each in one directory of this machine."""
