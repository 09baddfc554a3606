"""Tables that can be read from their beginning, more than once: files, and what is in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from schemas.errors import USAGE, WeirError
from services.drift.table import open_table

Say = Callable[[str], None]


class Source(Protocol):
    """A table that can be read from its beginning, more than once."""

    @property
    def schema(self) -> pa.Schema:
        """Names and types."""
        ...

    def batches(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """Read columns some rows at a time, in order."""
        ...


class Held:
    """A table in memory: what pandas, polars and pyarrow give."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.rows = table.num_rows

    @property
    def schema(self) -> pa.Schema:
        """Names and types."""
        return self.table.schema

    def batches(self, names: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """See `Source`."""
        yield from self.table.select(list(names)).to_batches(max_chunksize=rows)


class Tables:
    """Files, opened: a context that removes what a CSV became."""

    def __init__(self, say: Say) -> None:
        self._say, self._stack = say, ExitStack()
        self._scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="weir-watch-")))

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *about: object) -> None:
        self._stack.close()

    def open(self, path: Path) -> Source:
        """Open a file. Raises `WeirError` (usage)."""
        return open_table(path, self._scratch, self._say)


def held(frame: Any, what: str) -> Held:
    """Give a data frame (pandas, polars, pyarrow: whatever speaks Arrow) as a table. Raises `WeirError` (usage)."""
    try:
        table = _arrow(frame)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        said = " ".join(str(error).split())[:200]
        fix = "give columns of one length and type each, every name once"
        raise WeirError(f"{what} cannot be read as a table: {said}", fix=fix, code=USAGE) from None
    if table is not None:
        twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
        if twice:
            raise WeirError(f"{what} has the column {twice[0]!r} twice", fix="name each column once", code=USAGE)
        return Held(table)
    raise WeirError(
        f"{what} is a {type(frame).__name__}, which is no table", fix="give a data frame or an Arrow table", code=USAGE
    )


def _arrow(frame: Any) -> pa.Table | None:
    if isinstance(frame, pa.Table):
        return frame
    if type(frame).__module__.partition(".")[0] == "pandas":
        return pa.Table.from_pandas(frame, preserve_index=False)
    if hasattr(frame, "__arrow_c_stream__"):
        return pa.table(frame)
    return pa.table(dict(frame)) if isinstance(frame, Mapping) else None
