"""Mapping files, read: typed, with their secrets, or an error that names every wrong key."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.errors import ENVIRONMENT, USAGE, WeirError
from schemas.mapping import FileSource, KafkaSource, Mapping, SqlSource
from services.intake.formats import Format, format_of
from services.intake.mapper import Mapper

KEY_BYTES = 16
STAGE = "intake"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A mapping, ready: its file, its compiled form, and the format of its records (None: rows of a database)."""

    file: Path
    mapping: Mapping
    mapper: Mapper
    format: Format | None

    @property
    def name(self) -> str:
        """The mapping's."""
        return self.mapping.name

    @property
    def live(self) -> KafkaSource | SqlSource:
        """The source, where it is one that goes on. Raises `WeirError` (usage) for a mapping of files."""
        source = self.mapping.source
        if isinstance(source, FileSource):
            raise WeirError(
                f"{self.file} is a mapping of files, and `weir intake` reads topics and databases",
                fix=f'use it with `weir watch FILE --map {self.file}`, or say `kind = "kafka"` or "sql"',
                code=USAGE,
            )
        return source

    @property
    def stage(self) -> str:
        """What its group, its transactional id and its dead letters are called by."""
        return f"{STAGE}.{self.mapping.name}"


def load_all(files: Sequence[Path], *, max_event_bytes: int) -> list[Loaded]:
    """Load files whose names of mappings differ. Raises `WeirError`."""
    loaded = [load(file, max_event_bytes=max_event_bytes) for file in files]
    names = [one.name for one in loaded]
    for one in loaded:
        _ = one.live
        if names.count(one.name) > 1:
            raise WeirError(
                f"two mappings are called {one.name!r}: they would share a group and take each other's records",
                fix="give each a `name` of its own",
                code=USAGE,
            )
    return loaded


def load(file: Path, *, max_event_bytes: int) -> Loaded:
    """Read and compile one file. Raises `WeirError` that names every wrong key, or the secret that is missing."""
    mapping = read(file)
    key = b""
    if mapping.protect.hmac and mapping.protect.key is not None:
        key = secret(mapping.protect.key, f"protect.key of {file}").encode()
        if len(key) < KEY_BYTES:
            raise WeirError(
                f"the key of `protect.hmac` in {mapping.protect.key} has {len(key)} bytes, and can be guessed",
                fix=f"take a random one of at least {KEY_BYTES}, such as `openssl rand -hex 32` gives",
                code=USAGE,
            )
    source = mapping.source
    identify = isinstance(source, SqlSource)
    try:
        form = format_of(source) if isinstance(source, KafkaSource) else None
        if form is not None:
            form.prepare([])  # its secrets, too, are missed now
    except (ValueError, ValidationError) as error:
        fix = "correct `source.format`; see docs/intake.md"
        raise WeirError(f"{file}: source.format: {error}", fix=fix, code=USAGE) from None
    return Loaded(file, mapping, Mapper(mapping, key, identify=identify, max_event_bytes=max_event_bytes), form)


def read(file: Path) -> Mapping:
    """Read a mapping without its secrets. Raises `WeirError`."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeirError(f"{file} cannot be read: {error.strerror}", fix="name a file that exists", code=USAGE) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WeirError(f"{file} is not TOML: {error}", fix="see docs/intake.md for an example", code=USAGE) from None
    try:
        return Mapping.model_validate(tables)
    except ValidationError as error:
        said = [_said(item) for item in error.errors(include_url=False)]
        lines = "\n    ".join(dict.fromkeys(said))
        raise WeirError(f"{file} is no mapping:\n    {lines}", fix="see docs/intake.md", code=USAGE) from None


def _said(item: Any) -> str:
    """Say what is wrong and where; of a key that does not exist, what may have been meant."""
    kinds = ("prediction", "label", "signal", "kafka", "sql")
    place = [str(part) for part in item["loc"] if part not in kinds and not _is_type(part)]
    where = ".".join(place) or "the file"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        close = difflib.get_close_matches(place[-1], _known(), 1)
        message = "no such key" + (f" (did you mean `{close[0]}`?)" if close else "")
    return f"{where}: {message}"


def _is_type(part: Any) -> bool:
    """Say whether a part of pydantic's location names an alternative of a union, not a key of the file."""
    return isinstance(part, str) and ("[" in part or part in ("Taken", "Items", "str", "bool", "int", "float"))


def _known() -> Iterable[str]:
    from schemas import mapping

    parts = (mapping.Mapping, mapping.KafkaSource, mapping.SqlSource, mapping.Protect, mapping.Taken, mapping.Condition)
    rules = (mapping.PredictionRule, mapping.LabelRule, mapping.SignalRule, mapping.Items)
    return {name for part in (*parts, *rules) for name in part.model_fields}


def secret(said: str, what: str) -> str:
    """Give what `env:NAME` or `file:PATH` holds. Raises `WeirError`."""
    where, _, name = said.partition(":")
    if where == "env":
        value = os.environ.get(name, "")
        if not value:
            raise WeirError(f"{what} asks for the variable {name}, which is not set", fix=f"set {name}", code=USAGE)
        return value
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise WeirError(
            f"{what} asks for the file {name}: {why}", fix="name a readable file", code=ENVIRONMENT
        ) from None
