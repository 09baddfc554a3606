"""Which predictions stand, by SQL over the raw rows: docs/join.md said once more, by another engine.

Admission by rules 1 (size, form), 2 (Kafka's murmur2 of the request id; the append time that a forward carries), 3
(skew) and 4 (reach of the policy in force), then the least (`at_ms`, event key) of each identity. SQL has no seeded
XXH64, which is the key of an event without id and orders contents, nor can it read JSON integers beyond 64 bits. Rows
where either may decide are few: they are fetched, and only they are decided by our own code.

**Limits.** A request id that comes back after its state has ended (`beyond` in `weir verify`) stands once here, and
twice in the join. Rule 4 is asked with every policy known at the cut, not those known when the prediction was read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import xxhash

from schemas.control import Control, PolicySet
from schemas.event import decode, encode
from schemas.inputs import LABEL_NAME, Prediction
from schemas.policy import JoinPolicy, LabelRule
from schemas.records import Step
from schemas.settings import Settings

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient

Cuts = Mapping[int, Step]
"""Partition → the step of the join up to which is counted."""
Position = tuple[int, int, int]

POLICY_NOTICE_MS = 60_000
_SIZE = (
    "(length(body) + length(ifNull(key, '')) + arraySum(h -> length(h.name) + length(ifNull(h.value, '')), headers))"
)
_GROWTH = 4
"""How much longer an event's canonical bytes can be than its body: `1e15,` becomes `1000000000000000.0,`."""
_INTEGERS = range(-(2**63), 2**64)
_LIMITS = {"max_query_size": 64 << 20, "max_ast_elements": 1_000_000, "max_expanded_ast_elements": 1_000_000}


def standing_sql(client: HttpClient, settings: Settings, cuts: Cuts | None) -> str:
    """Give the query of the standing predictions: one raw row per identity, with its policy's `label_name`, the
    `other_names` of its policy's `labels`, and which of these are `value_names`.
    """
    aside = _set_aside(client, settings, cuts)
    out = f"WHERE (partition, offset, idx) NOT IN ({listed(aside)})" if aside else ""
    admitted = _admitted(client, settings, cuts)
    return (
        f"SELECT * FROM ({admitted}) {out} ORDER BY at_ms, xxHash64(event_id) LIMIT 1 BY request_id, model, deployment"
    )


def _admitted(client: HttpClient, settings: Settings, cuts: Cuts | None) -> str:
    join = settings.join
    below = _below(cuts, "predictions")
    policies = ", ".join(
        f"({number}, {quoted(one.model)}, {one.effective_from_ms}, {one.reach_ms}, {quoted(one.label_name)}, "
        f"[{', '.join(quoted(rule.name) for rule in one.labels)}], "
        f"[{', '.join(quoted(rule.name) for rule in one.labels if rule.metrics == 'value')}])"
        for number, one in _policies(client, settings, cuts)
    )
    named = (
        "'of Int32, named String, from_ms Int64, reach_ms Int64, label_name String, other_names Array(String), "
        "value_names Array(String)'"
    )
    return f"""
SELECT p.*, if(q.named = '', '{LABEL_NAME}', q.label_name) AS label_name, q.other_names AS other_names,
    q.value_names AS value_names FROM (
    SELECT *,
        ifNull(arrayLast(h -> h.name = 'weir-append-ms', headers).value, '') AS claimed,
        if(arrayExists(h -> h.name = 'weir-hop', headers) AND match(claimed, '^[0-9]{{1,15}}$'),
            least(toInt64OrZero(claimed), append_ms), append_ms) AS appended_ms,
        toString(model) AS named
    FROM predictions
    WHERE unreadable = '' AND {_SIZE} <= {join.max_event_bytes}
        AND kafkaMurmurHash(request_id) % {settings.partitions} = partition {below}
) AS p
LEFT ASOF JOIN (SELECT * FROM VALUES({named}, (-1, '', 0, 0, '', [], []){", " if policies else ""}{policies})) AS q
    ON p.partition = q.of AND p.named = q.named AND p.at_ms >= q.from_ms
WHERE p.at_ms BETWEEN p.appended_ms - {join.skew_ms} AND p.appended_ms + {join.skew_ms}
    AND p.appended_ms <= p.at_ms + if(q.named = '', {JoinPolicy(model="none").reach_ms}, q.reach_ms)"""


def _below(cuts: Cuts | None, topic: str) -> str:
    if cuts is None:
        return ""
    places = (f"(partition = {n} AND offset < {step.offsets.get(topic, 0)})" for n, step in cuts.items())
    return f"AND ({any_of(places)})"


def _policies(client: HttpClient, settings: Settings, cuts: Cuts | None) -> Iterator[tuple[int, JoinPolicy]]:
    """Give each partition's policies: of those of one model and one moment the greatest version, the first said."""
    sql = (
        "SELECT partition, append_ms, body FROM control WHERE kind = 'policy_set' AND unreadable = '' "
        f"AND {_SIZE} <= {settings.join.max_event_bytes} {_below(cuts, 'control')} ORDER BY partition, offset"
    )
    found: dict[tuple[int, str, int], JoinPolicy] = {}
    for partition, append_ms, body in rows(client, sql):
        event = msgspec.json.decode(body, type=Control)
        assert isinstance(event, PolicySet)
        policy = event.policy
        late = append_ms > policy.effective_from_ms - POLICY_NOTICE_MS
        named: list[JoinPolicy | LabelRule] = [policy, *policy.labels]
        labels = [one.negative_label for one in named] + [rule.label for one in named for rule in one.attribution]
        if (late and settings.clock != "virtual") or any(map(_too_large, labels)):
            continue
        at = partition, policy.model, policy.effective_from_ms
        if at not in found or policy.version > found[at].version:
            found[at] = policy
    return ((at[0], policy) for at, policy in found.items())


def _set_aside(client: HttpClient, settings: Settings, cuts: Cuts | None) -> list[Position]:
    """Find the rows that SQL would take wrongly: too large an integer, and losers of a tie."""
    found = []
    most = settings.join.max_event_bytes
    odd = (
        "SELECT partition, offset, idx, body FROM predictions WHERE unreadable = '' "
        f"AND (match(body, '-[0-9]{{19}}|[0-9]{{20}}') OR {_SIZE} * {_GROWTH} > {most})"
    )
    for partition, offset, index, body in rows(client, odd):
        event = decode(body, Prediction)
        values = [event.prediction, *event.features.values(), *event.slices.values()]
        if any(map(_too_large, values)) or len(encode(event)) > most:
            found.append((partition, offset, index))
    admitted = _admitted(client, settings, cuts)
    out = f"WHERE (partition, offset, idx) NOT IN ({listed(found)})" if found else ""
    # A body has one event id: as many bodies as ids means that ids, not contents, decide.
    tied = f"""
WITH admitted AS (SELECT * FROM ({admitted}) {out})
SELECT request_id, model, deployment, partition, offset, idx, body FROM admitted
WHERE (request_id, model, deployment, at_ms) IN (
    SELECT request_id, model, deployment, at_ms FROM (
        SELECT request_id, model, deployment, at_ms, uniqExact(body) AS bodies, uniqExact(event_id) AS ids,
            min(event_id) AS least_id
        FROM admitted GROUP BY request_id, model, deployment, at_ms
        ORDER BY at_ms LIMIT 1 BY request_id, model, deployment
    ) WHERE bodies > 1 AND (least_id = '' OR bodies > ids))"""
    rivals: dict[tuple[str, str, str], list[tuple[int, int, Position]]] = {}
    for request_id, model, deployment, partition, offset, index, body in rows(client, tied):
        content = xxhash.xxh64_intdigest(body.encode(), 1)
        event_id = decode(body, Prediction).event_id
        key = xxhash.xxh64_intdigest(event_id.encode(), 0) if event_id else content
        rivals.setdefault((request_id, model, deployment), []).append((key, content, (partition, offset, index)))
    for several in rivals.values():
        found += [position for _, _, position in sorted(several)[1:]]
    return found


def _too_large(value: object) -> bool:
    return type(value) is int and value not in _INTEGERS


def rows(client: HttpClient, sql: str) -> Iterator[Sequence[Any]]:
    """Ask, a row at a time."""
    with client.query_rows_stream(sql, settings=_LIMITS) as stream:
        yield from stream


def any_of(conditions: Iterable[str]) -> str:
    """Join conditions."""
    return " OR ".join(conditions) or "0"


def listed(values: Iterable[Any], *, square: bool = False) -> str:
    """Write numbers, or tuples of them, as a list or (`square`) as an array."""
    inside = ", ".join(map(repr, values))
    return f"[{inside}]" if square else inside


def quoted(value: str) -> str:
    r"""Write a string literal.

    >>> quoted("it's"), quoted("a\\b")
    ("'it\\'s'", "'a\\\\b'")
    """
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
