"""Options that many commands have, and the settings that come of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from schemas.settings import Settings

ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings file (default: WEIR_CONFIG, weir.toml).")]
Namespace = Annotated[str | None, typer.Option("--namespace", help="Prefix of topics, groups and database.")]
Bootstrap = Annotated[str | None, typer.Option("--bootstrap", help="Kafka's address, host:port.")]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where snapshots, logs and embedded data are kept.")]
Standby = Annotated[
    bool, typer.Option("--standby", help="Follow the worker of this slot; take over within 2 s when it stops.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load_settings(
    config: Path | None = None,
    namespace: str | None = None,
    bootstrap: str | None = None,
    data_dir: Path | None = None,
    *,
    standby: bool = False,
) -> tuple[Settings, dict[str, Any]]:
    """Give the settings and the flags that entered them. Raises `WeirError` that names the wrong key."""
    from services.cli.configuration import settings_from

    flags: dict[str, Any] = {}
    if namespace is not None:
        flags["namespace"] = namespace
    if bootstrap is not None:
        flags["kafka"] = {"bootstrap": bootstrap}
    if data_dir is not None:
        flags["data_dir"] = data_dir
    if standby:
        flags["runtime"] = {"standby": True}
    settings = settings_from(config, flags)
    from services import logs

    logs.configure("weir", settings.log_level)  # to standard error: standard output is for what was asked
    return settings, flags
