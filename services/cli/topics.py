"""`weir topics plan|apply`: what an administrator must create, and creating it."""

from __future__ import annotations

import json

from schemas.settings import Settings
from schemas.topics import plan


def show_plan(settings: Settings, *, as_json: bool = False) -> None:
    """Print every topic with its partitions and configuration; asks no broker."""
    plans = plan(
        settings.namespace,
        partitions=settings.partitions,
        measures_partitions=settings.measures_partitions,
        virtual=settings.clock == "virtual",
    )
    if as_json:
        print(json.dumps([{"topic": one.topic, "partitions": one.partitions, "config": one.config} for one in plans]))
        return
    wide = max(len(one.topic) for one in plans)
    print(f"{'TOPIC':<{wide}}  PARTITIONS  CONFIGURATION")
    for one in plans:
        config = " ".join(f"{name}={value}" for name, value in one.config.items())
        print(f"{one.topic:<{wide}}  {one.partitions:>10}  {config}")


def apply(settings: Settings) -> None:
    """Create what is missing and check the rest. Raises `WeirError` that names every difference."""
    from streams.runtime.topics import ensure_topics

    created = ensure_topics(settings)
    for name in created:
        print(f"created  {name}")
    print(f"{len(created)} created; namespace {settings.namespace!r} at {settings.kafka.bootstrap} is as planned")
