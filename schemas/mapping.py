"""A mapping file: how a team's own documents become predictions, labels and signals (`docs/intake.md`).

One file is one source and any number of `[[events]]`, each of which makes at most one event of a document (or, with
`each`, of each element of one of its lists). Every field of ours is a **source of a value**: a path into the document,
or a table that says more (`Taken`). `protect` is applied before anything else sees the document.

A path is names with dots between them, `user.id`; a number is a place in a list, `lines.0.sku`; a backslash keeps a dot
in a name. `$.` begins at the document where `each` has gone into it; `@` is what is known of the record: `@time` (ms),
`@topic`, `@partition`, `@offset`, `@key`, `@headers.NAME`, with Debezium also `@op`, `@ts_ms` and `@source.…`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from pydantic import BaseModel, ConfigDict, Discriminator, Field, create_model, field_validator, model_validator

from schemas.envelope import MAPS
from schemas.event import Input
from schemas.inputs import Label, Prediction, Signal

Unit = Literal["s", "ms", "us", "ns", "iso"]
Constant = bool | int | float | str
Path = Annotated[str, Field(min_length=1, max_length=512)]
Secret = Annotated[str, Field(pattern=r"^(env|file):.+$", description="env:NAME or file:PATH; never the secret.")]

KINDS: dict[str, type[Input]] = {"prediction": Prediction, "label": Label, "signal": Signal}
TOPIC_OF = {"prediction": "predictions", "label": "labels", "signal": "signals"}


class Part(BaseModel):
    """A table of a mapping file. Unknown keys are refused: they are typing errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Taken(Part):
    """A value: exactly one of `path`, `join` (several paths, their texts with `by` between them) and `value`.

    `map` gives ours for theirs, by its text; `default` stands where there is none, or `map` has none. `unit` and `zone`
    are for times: `zone` names the time zone of times that have none of their own. `number` reads numbers from text.
    `required` refuses a document without it, where our field would be left out.
    """

    path: Path | None = None
    join: Annotated[list[Path], Field(min_length=1)] | None = None
    by: str = ":"
    value: Constant | list[float | str] | None = None
    map: dict[str, Constant] = {}
    default: Constant | None = None
    unit: Unit | None = None
    zone: str = ""
    number: bool = False
    required: bool = False

    @model_validator(mode="after")
    def _one_origin(self) -> Taken:
        if sum(one is not None for one in (self.path, self.join, self.value)) != 1:
            raise ValueError("say exactly one of `path`, `join`, `value`")
        return self

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        try:
            if zone:
                ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"no time zone {zone!r}; expected a name such as UTC or Europe/Berlin") from None
        return zone


Value = Path | Taken


class Condition(Part):
    """What must hold of a document for an event to be made of it: one of `equals`, `one_of`, `present`."""

    path: Path
    equals: Constant | None = None
    one_of: list[Constant] | None = None
    present: bool | None = None

    @model_validator(mode="after")
    def _one_test(self) -> Condition:
        if sum(one is not None for one in (self.equals, self.one_of, self.present)) != 1:
            raise ValueError("say exactly one of `equals`, `one_of`, `present`")
        return self


class Items(Part):
    """The entries of a ranking: `each` is the path of the list, the others are paths in its elements."""

    each: Path
    item: Value
    score: Value | None = None
    position: Value | None = None
    propensity: Value | None = None


class Rule(Part):
    """What all kinds of events have: the list to go through, if any, and when an event is made.

    `without_label` (labels): what becomes of a document whose label is null: `skip` it, `retract` what was said before,
    or `refuse` it.
    """

    kind: str
    each: Path | None = None
    when: list[Condition] = []
    without_label: Literal["skip", "retract", "refuse"] = "skip"

    @field_validator("when", mode="before")
    @classmethod
    def _one_or_many(cls, when: Any) -> Any:
        return [when] if isinstance(when, dict) else when

    @property
    def fields(self) -> dict[str, Any]:
        """Give our fields that are mapped, each with where its value comes from."""
        names = [field.name for field in msgspec.structs.fields(KINDS[self.kind])]
        return {name: found for name in names if (found := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _complete(self) -> Rule:
        said = self.fields
        if self.kind == "label" and "label" not in said and "op" not in said:
            raise ValueError("a label needs `label` (or `op`, which may say `retract`)")
        return self


def _rule(kind: str, struct: type[Input]) -> type[Rule]:
    """Derive the rule of a kind from its struct: a field that the contract gains can be mapped at once."""
    fields: dict[str, Any] = {"kind": (Literal[kind], ...)}
    for field in msgspec.structs.fields(struct):
        annotation: Any = Path | dict[str, Value] if field.name in MAPS else Items if field.name == "items" else Value
        required = field.required
        fields[field.name] = (annotation, ...) if required else (annotation | None, None)
    return create_model(f"{struct.__name__}Rule", __base__=Rule, __doc__=f"How to make a {kind}.", **fields)


PredictionRule, LabelRule, SignalRule = (_rule(kind, struct) for kind, struct in KINDS.items())
if TYPE_CHECKING:
    AnyRule: TypeAlias = Rule
else:
    AnyRule = Annotated[PredictionRule | LabelRule | SignalRule, Discriminator("kind")]


class KafkaSource(Part):
    """A topic of the same Kafka. `format` is a kind, or a table with `kind` and what that needs.

    `start`: where to begin the first time: `recent` is what the join would still take (`join.skew_ms` back).
    """

    kind: Literal["kafka"]
    topic: str = Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")
    format: str | dict[str, Any] = "json"
    start: Literal["earliest", "recent", "latest"] = "recent"


class SqlSource(Part):
    """A query that is asked again every `every_s` seconds for rows whose `cursor` column has grown.

    Either `url` (`sqlite:///PATH`), or `driver`, a DB-API module that is installed, with the arguments of its
    `connect`; those that are secret say `env:NAME` or `file:PATH`. `query` is any SELECT that has the cursor column;
    the order and the condition are put around it. `overlap`: how far back is read again each time, in the cursor's unit
    (seconds where it is a time), for rows that become visible later than others with a greater cursor.
    """

    kind: Literal["sql"]
    url: str | None = None
    driver: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$")
    connect: dict[str, Constant] = {}
    query: str = Field(min_length=1)
    cursor: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    overlap: float = Field(default=60, ge=0)
    every_s: float = Field(default=10, gt=0)
    batch: int = Field(default=5_000, ge=1, le=50_000)

    @model_validator(mode="after")
    def _one_database(self) -> SqlSource:
        if (self.url is None) == (self.driver is None):
            raise ValueError("say either `url` (sqlite:///PATH) or `driver`")
        if self.url is not None and not self.url.startswith("sqlite:///"):
            raise ValueError("`url` is sqlite:///PATH; for another database say `driver` (psycopg, …) and `connect`")
        for name, value in self.connect.items():
            secret = any(word in name.lower() for word in ("password", "passwd", "secret", "token"))
            if secret and not str(value).startswith(("env:", "file:")):
                raise ValueError(f"`connect.{name}` is a secret: say env:NAME or file:PATH")
        return self


class FileSource(Part):
    """Tables that a command names, such as `weir watch`'s: one document a row."""

    kind: Literal["file"]


def _bare(path: str) -> str:
    """Give the one spelling of a protected path: all of them begin at the document, with `$.` or without.

    >>> _bare("$.user.id"), _bare("@key")
    ('user.id', '@key')
    """
    return path.removeprefix("$.")


class Protect(Part):
    """What must not leave the source as it is. Applied first of all, to events and to dead letters alike.

    `drop`: fields that are taken out. `hmac`: replaced by a pseudonym, HMAC-SHA256 with `key`, 128 bits in hex.
    `bucket`: numbers are rounded down to a multiple. `prefix`: of texts the first so many characters are kept. Paths
    may have `*` for every name or element; a path that meets a list means each of its elements.
    """

    drop: list[Path] = []
    hmac: list[Path] = []
    key: Secret | None = None
    bucket: dict[Path, Annotated[float, Field(gt=0)]] = {}
    prefix: dict[Path, Annotated[int, Field(ge=0)]] = {}

    @property
    def paths(self) -> list[str]:
        """Give every path that is protected."""
        return [*self.drop, *self.hmac, *self.bucket, *self.prefix]

    @model_validator(mode="after")
    def _consistent(self) -> Protect:
        if self.hmac and self.key is None:
            raise ValueError("`hmac` needs `key`: env:NAME or file:PATH")
        plain = [_bare(path) for path in self.paths]
        twice = sorted({path for path in self.paths if plain.count(_bare(path)) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)}: protected in two ways; say one")
        return self


class Mapping(Part):
    """A whole mapping file. `v` is the version of its format; `name` names its group and its place in Kafka.

    >>> Mapping.model_validate({
    ...     "name": "orders", "source": {"kind": "kafka", "topic": "shop.orders"},
    ...     "events": [{"kind": "label", "request_id": "order_id", "at_ms": "@time", "label": "ok"}],
    ... }).events[0].fields["request_id"]
    'order_id'
    """

    v: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")
    source: Annotated[KafkaSource | SqlSource | FileSource, Discriminator("kind")]
    protect: Protect = Protect()
    events: Annotated[list[AnyRule], Field(min_length=1)]

    @model_validator(mode="after")
    def _cursor_is_stored(self) -> Mapping:
        if isinstance(self.source, SqlSource) and {self.source.cursor, "*"} & set(map(_bare, self.protect.paths)):
            raise ValueError(
                f"the cursor {self.source.cursor!r} is protected, and a cursor has to be stored as it is: "
                "take another column, a number or a time"
            )
        return self
