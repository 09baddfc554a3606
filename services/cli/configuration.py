"""Settings from file, environment and flags, and the file that a running `weir up` leaves for other commands."""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import SecretStr, ValidationError
from pydantic_settings.exceptions import SettingsError

from schemas.errors import USAGE, WeirError
from schemas.settings import Settings, config_path, origins, variable_of


def settings_from(config: Path | None, flags: dict[str, Any]) -> Settings:
    """Read the settings; flags win. Raises `WeirError` (usage) that names each wrong key and its origin."""
    if config is not None:
        if not config.exists():
            raise WeirError(f"the settings file {config} does not exist", fix="name another with --config", code=USAGE)
        os.environ["WEIR_CONFIG"] = str(config.absolute())
    try:
        return Settings(**flags)
    except ValidationError as error:
        wrong = {".".join(map(str, item["loc"])): item["msg"] for item in error.errors()}
        lines = "; ".join(f"{name}: {said}" for name, said in wrong.items())
        fix = "; ".join(_mended(name) for name in wrong)
        raise WeirError(f"the settings are not valid: {lines}", fix=fix, code=USAGE) from None
    except (tomllib.TOMLDecodeError, SettingsError, FileNotFoundError) as error:
        fix = f"correct {config_path() or 'the variable'}"
        raise WeirError(f"the settings cannot be read: {error}", fix=fix, code=USAGE) from None


def _mended(name: str) -> str:
    """Say where a setting that is wrong was given, and what it may have been meant to be."""
    variable = variable_of(name)
    where = f"the variable {variable}" if variable else f"{name} in {config_path() or 'the flags'}"
    fields: dict[str, Any] = dict(Settings.model_fields)
    *sections, last = name.split(".")
    for section in sections:
        fields = dict(getattr(getattr(fields.get(section), "annotation", None), "model_fields", {}))
    close = [] if last in fields else difflib.get_close_matches(last, fields, 1)
    return f"correct {where}" + (f" (did you mean `{'.'.join([*sections, *close])}`?)" if close else "")


def show(settings: Settings, flags: dict[str, Any], *, with_origin: bool, as_json: bool) -> None:
    """Print every dotted name with its value, and its origin when asked."""
    found = origins(settings, flags)
    if as_json:
        print(json.dumps({name: {"value": value, "origin": origin} for name, (value, origin) in found.items()}))
        return
    wide = max(map(len, found))
    for name, (value, origin) in found.items():
        print(f"{name:<{wide}}  {value or '(empty)'}" + (f"    [{origin}]" if with_origin else ""))


def write_running(settings: Settings) -> Path:
    """Leave the running system's addresses and secrets in `data_dir/run/settings.toml`, readable by its owner only.

    Settings of later commands in this directory find it (see `schemas.settings`), so that `weir verify` needs no flags.
    """
    path = settings.data_dir / "run" / "settings.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    body = tomlkit.dumps(_plain(settings.model_dump(mode="python")))
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(body)
    temporary.replace(path)
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value) if isinstance(value, Path) else value
