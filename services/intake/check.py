"""What is wrong, or doubtful, with a mapping and its source, before it runs."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import ConfigResource, ResourceType

from schemas.errors import ENVIRONMENT, USAGE, WeirError
from schemas.mapping import KafkaSource, Mapping, SqlSource
from schemas.settings import Settings
from services.intake.database import Away, connected
from services.intake.load import Loaded, load_all
from streams.runtime import kafka
from streams.runtime.topics import check_topics, planned


def require_topic(settings: Settings, topic: str) -> None:
    """Raise `WeirError` when a topic does not exist, naming those that are called like it, or is one of ours."""
    if topic in {plan.topic for plan in planned(settings)}:
        raise WeirError(
            f"{topic} is one of Weir's own topics: what intake writes would come back to it",
            fix="name a topic of yours as `source.topic`",
            code=USAGE,
        )
    counts = kafka.partition_counts(kafka.make_admin(settings), settings)
    if topic in counts:
        return
    close = difflib.get_close_matches(topic, counts, 3)
    raise WeirError(
        f"there is no topic {topic!r} at {settings.kafka.bootstrap}",
        fix=f"correct `source.topic` (did you mean {', '.join(close)}?)"
        if close
        else "correct `source.topic`, let us describe it (DESCRIBE on the topic), or set kafka.bootstrap",
        code=ENVIRONMENT,
    )


def advice(settings: Settings, mapping: Mapping) -> list[str]:
    """Give what is doubtful about a mapping and its source, a sentence each. Asks Kafka, which has to answer."""
    said = _of_file(mapping)
    if not isinstance(mapping.source, KafkaSource):
        return said
    topic = mapping.source.topic
    admin = kafka.make_admin(settings)
    if kafka.partition_counts(admin, settings).get(topic) == 1:
        said.append(f"{topic} has one partition: a second worker of this mapping would have nothing to read")
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        entries = admin.describe_configs([resource], request_timeout=30)[resource].result()
    except KafkaException as error:
        if error.args[0].code() not in (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
            raise
        return said
    if "compact" in entries["cleanup.policy"].value:
        said.append(
            f"{topic} is compacted: of several records with one key only the last is sure to be read, so predictions "
            "and corrections may be missing; labels that only need their last state are fine"
        )
    return said


def _of_file(mapping: Mapping) -> list[str]:
    said = []
    uses = str(mapping.model_dump(exclude={"protect", "source"}))
    if mapping.protect.paths and "'@key" in uses and not any(one.startswith("@key") for one in mapping.protect.paths):
        said.append("`@key` is used and not protected, while fields are: protect it too, if it holds one of them")
    for number, rule in enumerate(mapping.events):
        if rule.kind == "label" and rule.fields["at_ms"] == "@time" and isinstance(mapping.source, SqlSource):
            said.append(
                f"events.{number}: `@time` of a row is when it was read; take a column that says when it was true"
            )
    return said


def check_all(settings: Settings, files: Sequence[Path], *, offline: bool, as_json: bool = False) -> None:
    """Check mapping files and their sources, and print what is doubtful. Raises `WeirError` for what cannot work."""
    loaded = load_all(files, max_event_bytes=settings.join.max_event_bytes)
    found = {str(one.file): check(settings, one, offline=offline) for one in loaded}
    if as_json:
        print(json.dumps([{"file": name, "ok": True, "advice": said} for name, said in found.items()]))
        return
    for name, said in found.items():
        for one in said:
            print(f"{name}: note: {one}")
        print(f"{name}: valid{' (its source was not asked)' if offline else ''}")


def check(settings: Settings, loaded: Loaded, *, offline: bool) -> list[str]:
    """Check a mapping that has been loaded, and its source unless `offline`; gives advice.

    Raises `WeirError` for what cannot work.
    """
    if offline:
        return _of_file(loaded.mapping)
    kafka.wait_for_kafka(settings, timeout_s=5)
    source = loaded.mapping.source
    if isinstance(source, KafkaSource):
        require_topic(settings, source.topic)
    said = advice(settings, loaded.mapping)
    if isinstance(source, SqlSource):
        said += _of_query(loaded.mapping, source)
    check_topics(settings, ["predictions", "labels", "signals", "dead-letters", "intake-retries", "intake-state"])
    return said


def _of_query(mapping: Mapping, source: SqlSource) -> list[str]:
    try:
        with connected(source) as connection:
            columns = connection.columns()
            hidden = connection.unreachable()
    except Away as error:
        raise unreachable(error) from None
    said = []
    if hidden:
        said.append(f"{hidden} rows have no {source.cursor}, and are never read")
    empty = dict.fromkeys(columns)
    for number, rule in enumerate(mapping.events):
        for name, path in rule.fields.items():
            here = isinstance(path, str) and rule.each is None and not path.startswith("@")
            if here and path.removeprefix("$.") not in empty and "." not in path:
                said.append(f"events.{number}.{name}: the query has no column {path!r}; it has {', '.join(columns)}")
    plain = [path for path in mapping.protect.paths if "." not in path and not path.startswith(("@", "$", "*"))]
    said += [
        f"protect: the query has no column {path!r}, so this protects nothing" for path in plain if path not in empty
    ]
    return said


def unreachable(error: Away) -> WeirError:
    """Give the error for a person who asks now."""
    return WeirError(
        f"the database cannot be asked: {error}",
        fix="start it, or correct `source.url` or `source.connect` (a path is relative to where this runs)",
        code=ENVIRONMENT,
    )
