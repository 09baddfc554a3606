"""A pluggable part: a frozen, typed object found by its `kind`, which validates and prints itself.

A family is an abstract subclass of `Spec`; a member is a subclass of the family with a literal `kind`. Defining the
class registers it: settings, contract tests, JSON Schema and docs find it by themselves.

>>> class Shape(Spec): ...
>>> class Circle(Shape):
...     kind: Literal["circle"] = "circle"
...     radius: float = 1.0
>>> Shape.parse({"kind": "circle", "radius": 2})
Circle(kind='circle', radius=2.0)
>>> Shape.parse({"kind": "square"})
Traceback (most recent call last):
ValueError: no Shape of kind 'square'; known kinds: circle
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict

__all__ = ["Literal", "Spec"]


class Spec(BaseModel):
    """Base of every family. Raises `TypeError` at class definition when two members share a kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: ClassVar[dict[str, type[Spec]]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if Spec in cls.__bases__:
            cls.members = {}
            return
        field = cls.model_fields.get("kind")
        kinds = get_args(field.annotation) if field else ()
        if not kinds:
            return
        (kind,) = kinds
        known = cls.members.get(kind)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise TypeError(f"kind {kind!r} is taken by {known.__qualname__}; choose another for {cls.__qualname__}")
        cls.members[kind] = cls

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Self:
        """Build the member named by `value["kind"]`. Raises `ValueError` that lists the known kinds."""
        kind = value.get("kind")
        member = cls.members.get(kind) if isinstance(kind, str) else None
        if member is None:
            raise ValueError(f"no {cls.__name__} of kind {kind!r}; known kinds: {', '.join(sorted(cls.members))}")
        part = member.model_validate(value)
        assert isinstance(part, cls)
        return part
