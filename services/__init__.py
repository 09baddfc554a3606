"""The processes that touch the world: Kafka, ClickHouse, HTTP, disks, clocks."""
