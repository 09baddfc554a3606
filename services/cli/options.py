"""Options that many commands have, and the settings that come of them."""

from __future__ import annotations

import sys
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
    asks: bool = True,
) -> tuple[Settings, dict[str, Any]]:
    """Give the settings and the flags that entered them. Raises `WeirError` that names the wrong key.

    A command that `asks` a running system says so when a data directory was named in which none runs and no Kafka is
    configured: it would speak to the default address, and to another system that happens to be there.
    """
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
    if asks and data_dir is not None:
        from schemas.settings import origins, running_path

        if running_path(data_dir, {}) is None and origins(settings, flags)["kafka.bootstrap"][1] == "default":
            where = settings.kafka.bootstrap
            print(f"weir: nothing runs in {data_dir}; asking {where}, the default, instead", file=sys.stderr)
    return settings, flags
