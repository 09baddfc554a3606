"""The rows that a reference is learnt from: traffic that has landed in ClickHouse, or a table that somebody has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from schemas.errors import USAGE, WeirError
from schemas.event import LabelValue, Scalar, decode
from schemas.inputs import Prediction
from services.record.standing import quoted
from streams.measure.embedding import Vector
from streams.measure.reading import binary
from streams.measure.tasks import predicted_class

if TYPE_CHECKING:
    from clickhouse_connect.driver.httpclient import HttpClient


LARGEST = 2**1023
EMBEDDING = "embedding"
EMBEDDED = 32_000_000
"""So many numbers of embeddings are held at most (256 MB): 40,000 rows of 768 are plenty."""


@dataclass(slots=True)
class Rows:
    """Columns of one length. A label is None where the row has none; `predictions` are the classes that were chosen.

    `embeddings` are the vectors of the rows, of the first ones alone where these hold `EMBEDDED` numbers; None where no
    row can have one.
    """

    features: dict[str, list[Scalar]] = field(default_factory=dict)
    scores: list[float | None] = field(default_factory=list)
    labels: list[LabelValue | None] = field(default_factory=list)
    predictions: list[LabelValue | None] = field(default_factory=list)
    embeddings: list[Vector] | None = field(default_factory=list)
    embedded: int = 0

    def __len__(self) -> int:
        return len(self.scores)

    def add(self, prediction: Prediction, label: LabelValue | None) -> None:
        """Add what was predicted, and what turned out."""
        score = prediction.score if isinstance(prediction.score, float | int) else None
        chosen: LabelValue | None = prediction.prediction
        if score is not None and binary(chosen) is None and chosen is None:
            chosen = predicted_class(prediction, score)
        for name in prediction.features:
            if name not in self.features:
                self.features[name] = [None] * len(self)
        for name, column in self.features.items():
            value = prediction.features.get(name)
            # An integer that no double comes near lies beyond every edge that could be learnt from it.
            column.append(None if isinstance(value, int) and abs(value) > LARGEST else value)
        self.scores.append(score)
        self.labels.append(label)
        self.predictions.append(chosen)
        if self.embeddings is not None and self.embedded < EMBEDDED:
            vector = None if prediction.embedding is None else np.array(prediction.embedding, dtype=np.float64)
            self.embeddings.append(vector)
            self.embedded += 0 if vector is None else vector.size


@dataclass(frozen=True, slots=True)
class Span:
    """When a version's predictions were made, and how many there are."""

    from_ms: int
    to_ms: int
    count: int


def versions(client: HttpClient, model: str) -> dict[str, Span]:
    """Give the versions of a model that have predicted, the newest last."""
    sql = (
        "SELECT version, min(at_ms), max(at_ms), count() FROM landed_predictions "
        "WHERE unreadable = '' AND role = 'primary' AND model = {m:String} GROUP BY version ORDER BY max(at_ms)"
    )
    found = client.query(sql, parameters={"m": model}).result_rows
    return {str(version): Span(int(first), int(last), int(count)) for version, first, last, count in found}


def landed(client: HttpClient, model: str, version: str, label_name: str, span: Span, rows: int) -> Rows:
    """Give at most `rows` predictions of a span, chosen by a hash of their ids, with their final labels."""
    which = f"model = {quoted(model)}"
    sql = f"""
SELECT p.body, if(f.status = 'final', f.label_json, '') FROM (
    SELECT request_id, deployment, body FROM predictions
    WHERE {which} AND version = {quoted(version)} AND role = 'primary' AND unreadable = ''
        AND at_ms >= {span.from_ms} AND at_ms <= {span.to_ms}
    ORDER BY sipHash64(request_id), at_ms LIMIT 1 BY request_id, deployment LIMIT {rows}) AS p
LEFT JOIN (
    SELECT request_id, deployment, label_json, toString(status) AS status FROM feedback
    WHERE {which} AND toString(name) = {quoted(label_name)} AND isNull(item) AND unreadable = ''
    ORDER BY (offset, idx) DESC LIMIT 1 BY request_id, deployment) AS f
ON p.request_id = f.request_id AND p.deployment = f.deployment
ORDER BY sipHash64(p.request_id), p.deployment"""
    found = Rows()
    with client.query_rows_stream(sql) as stream:
        for body, label in stream:
            found.add(decode(body, Prediction), msgspec.json.decode(label) if label else None)
    return found


def filed(
    path: Path,
    *,
    score: str | None,
    label: str | None,
    prediction: str | None,
    without: Sequence[str],
    embedding: str | None = None,
) -> Rows:
    """Read a Parquet or CSV file: the named columns are what they are named, the others features.

    A column called `embedding` that holds lists is the embedding, unless another is named.

    Raises `WeirError` (usage) for a file that cannot be read, a column that is not there, or no rows.
    """
    table = _table(path)
    if embedding is None and EMBEDDING in table.column_names and EMBEDDING not in without and _listed(table, EMBEDDING):
        embedding = EMBEDDING
    named = [name for name in (score, label, prediction, embedding) if name is not None]
    lacking = [name for name in (*named, *without) if name not in table.column_names]
    if lacking:
        raise WeirError(
            f"{path} has no column {lacking[0]!r}; it has {', '.join(table.column_names)}", fix="name one", code=USAGE
        )
    if not table.num_rows:
        raise WeirError(f"{path} has no rows", code=USAGE)
    nothing: list[Any] = [None] * table.num_rows

    def column(name: str | None) -> list[Any]:
        return nothing if name is None else table.column(name).to_pylist()

    vectors = None if embedding is None else _vectors(path, embedding, table)
    features = {name: column(name) for name in table.column_names if name not in {*named, *without}}
    odd = [name for name, values in features.items() if not _scalar(values)]
    if odd:
        raise WeirError(
            f"column {odd[0]!r} of {path} holds neither numbers, texts nor booleans",
            fix=f"leave it out: --without {odd[0]}; name it where it holds the embeddings: --embedding {odd[0]}",
            code=USAGE,
        )
    return Rows(features, column(score), column(label), column(prediction), vectors)


def columns(path: Path, named: Sequence[str], without: Sequence[str]) -> tuple[dict[str, list[Any]], list[str]]:
    """Read a Parquet or CSV file: its columns by name, and which of them are features, being neither named nor without.

    Raises `WeirError` (usage) for a file that cannot be read, a column that is not there or no scalar, or no rows.
    """
    table = _table(path)
    lacking = [name for name in (*named, *without) if name not in table.column_names]
    if lacking:
        raise WeirError(
            f"{path} has no column {lacking[0]!r}; it has {', '.join(table.column_names)}", fix="name one", code=USAGE
        )
    if not table.num_rows:
        raise WeirError(f"{path} has no rows", code=USAGE)
    found = {name: table.column(name).to_pylist() for name in table.column_names if name not in without}
    odd = [name for name, values in found.items() if not _scalar(values)]
    if odd:
        raise WeirError(
            f"column {odd[0]!r} of {path} holds neither numbers, texts nor booleans",
            fix=f"leave it out: --without {odd[0]}",
            code=USAGE,
        )
    return found, [name for name in found if name not in named]


def _listed(table: Any, name: str) -> bool:
    import pyarrow as pa

    kind = table.schema.field(name).type
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _vectors(path: Path, name: str, table: Any) -> list[Vector]:
    """Give a column's lists as vectors, spread evenly over it where they hold more than `EMBEDDED` numbers.

    One with a null inside holds a NaN there, which makes it missing.
    """
    import pyarrow as pa

    kind = table.schema.field(name).type
    inner = kind.value_type if _listed(table, name) else None
    if inner is None or not (pa.types.is_floating(inner) or pa.types.is_integer(inner)):
        raise WeirError(
            f"column {name!r} of {path} holds {kind}, and embeddings are lists of numbers",
            fix="name a column of lists (Parquet's list, large list or fixed-size list)",
            code=USAGE,
        )
    column = table.column(name)
    numbers = sum(len(chunk.flatten()) for chunk in column.chunks)
    step = -(-numbers // EMBEDDED) if numbers else 1
    found: list[Vector] = []
    at = 0
    for chunk in column.chunks:
        flat = chunk.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
        end = 0
        for length in chunk.value_lengths().to_pylist():
            end += length or 0
            if at % step == 0:
                found.append(None if length is None else flat[end - length : end])
            at += 1
    return found


def _scalar(values: list[Any]) -> bool:
    return all(value is None or isinstance(value, str | bool | int | float) for value in values)


def _table(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if path.suffix.lower() == ".csv":
            return pyarrow.csv.read_csv(path)
        return pyarrow.parquet.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise WeirError(f"{path} cannot be read: {error}", fix="name a Parquet or CSV file", code=USAGE) from None
