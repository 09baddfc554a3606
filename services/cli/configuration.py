"""Settings from file, environment and flags, and the file that a running `weir up` leaves for other commands."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import SecretStr, ValidationError
from pydantic_settings.exceptions import SettingsError

from schemas.errors import USAGE, WeirError
from schemas.settings import Settings, origins


def settings_from(config: Path | None, flags: dict[str, Any]) -> Settings:
    """Read the settings; flags win. Raises `WeirError` (usage) that names each wrong key and its origin."""
    if config is not None:
        if not config.exists():
            raise WeirError(f"the settings file {config} does not exist", fix="name another with --config", code=USAGE)
        os.environ["WEIR_CONFIG"] = str(config.absolute())
    try:
        return Settings(**flags)
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise WeirError(
            f"the settings are not valid: {lines}", fix="see `weir config show --origin`", code=USAGE
        ) from None
    except (tomllib.TOMLDecodeError, SettingsError, FileNotFoundError) as error:
        raise WeirError(
            f"the settings cannot be read: {error}", fix="correct the file or the variable", code=USAGE
        ) from None


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
