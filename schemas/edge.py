"""Pydantic twins of the event structs, derived, for HTTP: same names, types, bounds and defaults.

>>> from schemas.inputs import Label
>>> model(Label).model_validate({"request_id": "r1", "at_ms": 5, "label": 1}).label
1
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import NODEFAULT, UNSET, Meta, UnsetType
from pydantic import BaseModel, ConfigDict, Field, create_model


@functools.cache
def model(struct: type[msgspec.Struct]) -> type[BaseModel]:
    """Derive the pydantic model of a struct. A field that may be unset defaults to null here."""
    hints = get_type_hints(struct, include_extras=True)
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(struct):
        annotation = _translate(hints[field.name])
        if field.default is UNSET:
            fields[field.name] = (annotation | None, None)
        elif field.default is not NODEFAULT:
            fields[field.name] = (annotation, field.default)
        elif field.default_factory is not NODEFAULT:
            fields[field.name] = (annotation, Field(default_factory=field.default_factory))
        else:
            fields[field.name] = (annotation, ...)
    strict = struct.__struct_config__.forbid_unknown_fields
    config = ConfigDict(extra="forbid" if strict else "ignore", frozen=True, title=struct.__name__)
    return create_model(struct.__name__, __config__=config, __doc__=struct.__doc__, **fields)


def _translate(hint: Any) -> Any:
    """Turn msgspec's bounds into pydantic's, nested structs into models, and drop `UnsetType` from unions."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        constraints = [_constraint(extra) if isinstance(extra, Meta) else extra for extra in args[1:]]
        return Annotated[(_translate(args[0]), *constraints)]
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return model(hint)
    if not args or origin is None or str(origin) == "typing.Literal":
        return hint
    kept = tuple(_translate(arg) for arg in args if arg is not UnsetType)
    if origin in (list, dict):
        return origin[kept]
    return functools.reduce(lambda left, right: left | right, kept)


def _constraint(meta: Meta) -> Any:
    bounds = {name: getattr(meta, name) for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern")}
    return Field(**{name: bound for name, bound in bounds.items() if bound is not None}, description=meta.description)
