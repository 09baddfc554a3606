"""Tables on disk, a column at a time: Parquet as it is, CSV through a Parquet file of its own.

A CSV has no columns to read alone, so it is streamed into a temporary Parquet file once. The types of its columns are
inferred from its first megabytes; one that turns out otherwise later (`1`, then `1.5`, then `n/a`) is read again as
what all of it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from schemas.errors import USAGE, WeirError

Say = Callable[[str], None]

BLOCK_BYTES = 16 << 20
_KINDS = "give a Parquet or CSV file, or a directory of Parquet files"
NULLS = ["", "NULL", "null", "NaN", "nan", "NA", "N/A", "n/a", "None"]
_WRONG = re.compile(r"In CSV column #(\d+)")


class Table:
    """Columns of one table by name. `rows` is how many each has."""

    def __init__(self, path: Path, dataset: ds.Dataset) -> None:
        self.path, self._dataset = path, dataset
        self.rows = int(dataset.count_rows())

    @property
    def schema(self) -> pa.Schema:
        """Names and types."""
        return self._dataset.schema

    def column(self, name: str) -> pa.ChunkedArray:
        """Read one column. Raises `WeirError` for a file that is broken in it."""
        try:
            return self._dataset.to_table(columns=[name], use_threads=False).column(0)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self.path, error) from None

    def batches(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Read columns some rows at a time, in order. Raises `WeirError` as `column` does."""
        # Buffered ahead, all row groups of a file would be held until its end.
        plain = ds.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True)
        try:
            yield from self._dataset.to_batches(
                columns=list(names), batch_size=rows, batch_readahead=0, fragment_readahead=0, use_threads=False,
                fragment_scan_options=plain, cache_metadata=False,
            )  # fmt: skip
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self.path, error) from None


def open_table(path: Path, scratch: Path, say: Say) -> Table:
    """Open a Parquet file, a directory of them, or a CSV. Raises `WeirError`; `scratch` is for what a CSV becomes."""
    if not path.exists():
        raise WeirError(f"there is no file {path}", fix=_KINDS, code=USAGE)
    if path.is_dir() and not any(path.rglob("*.parquet")):
        raise WeirError(f"{path} holds no file named *.parquet", fix=_KINDS, code=USAGE)
    try:
        if path.is_file() and not _is_parquet(path):
            say(f"reading {path.name}")
            path_of_copy = scratch / f"{len(list(scratch.iterdir()))}.parquet"
            _copy(path, path_of_copy)
            return _checked(Table(path, ds.dataset(path_of_copy, format="parquet")))
        if path.is_file():
            _refuse_twins(path, pq.read_schema(path).names)
        return _checked(Table(path, ds.dataset(path, format="parquet")))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None


def _refuse_twins(path: Path, names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise WeirError(f"{path} has several columns named {', '.join(map(repr, twice))}", fix="rename them")


def _checked(table: Table) -> Table:
    if not table.rows:
        raise WeirError(f"{table.path} has no rows", fix="compare tables that have some", code=USAGE)
    return table


def _unreadable(path: Path, error: BaseException) -> WeirError:
    said = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    fix = "give a Parquet file, or a CSV in UTF-8 with a header line"
    return WeirError(f"{path} cannot be read: {said}", fix=fix, code=USAGE)


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _copy(path: Path, to: Path) -> None:
    """Stream a CSV into a Parquet file."""
    with csv.open_csv(path, _read_options(), _parse_options(path)) as stream:
        names = stream.schema.names
    _refuse_twins(path, names)
    types: dict[str, pa.DataType] = {}
    while True:
        try:
            _write(path, to, types)
            return
        except pa.ArrowInvalid as error:
            found = _WRONG.search(str(error))
            name = names[int(found[1])] if found and int(found[1]) < len(names) else None
            if name is None or types.get(name) == pa.string():
                raise
            types[name] = pa.string() if name in types else pa.float64()


def _write(path: Path, to: Path, types: dict[str, pa.DataType]) -> None:
    convert = csv.ConvertOptions(column_types=types, null_values=NULLS, strings_can_be_null=True)
    with (
        csv.open_csv(path, _read_options(), _parse_options(path), convert) as stream,
        pq.ParquetWriter(to, stream.schema) as out,
    ):
        for batch in stream:
            out.write_batch(batch)


def _parse_options(path: Path) -> csv.ParseOptions:
    """Take `;` or a tab for what separates columns where the header has more of these than commas."""
    with path.open("rb") as file:
        head = file.readline(1 << 16)
    return csv.ParseOptions(delimiter=max((",", ";", "\t"), key=lambda mark: head.count(mark.encode())))


def _read_options() -> csv.ReadOptions:
    return csv.ReadOptions(block_size=BLOCK_BYTES)
