"""`weir up`: embedded parts first, then topics and tables, then every process, watched; all stopped on Ctrl-C."""

from __future__ import annotations

import contextlib
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pydantic import SecretStr

from schemas.errors import USAGE, WeirError
from schemas.settings import Settings
from services.cli.configuration import write_running
from services.cli.processes import PROCESSES
from services.local.supervisor import Child, Say, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Running:
    """A system that is up: its resolved settings (addresses and token included) and who watches over it."""

    settings: Settings
    supervisor: Supervisor

    @property
    def page(self) -> str:
        """The page's address; the token is in the fragment, which no server and no log ever sees."""
        api = self.settings.api
        return f"http://{api.host}:{api.port}/#token={api.token.get_secret_value()}"


def chosen(only: Sequence[str], without: Sequence[str]) -> list[str]:
    """Give the processes to start, in their order. Raises `WeirError` for a name that does not exist."""
    unknown = [name for name in (*only, *without) if name not in PROCESSES]
    if unknown:
        raise WeirError(f"no process {', '.join(unknown)}", fix=f"choose from {', '.join(PROCESSES)}", code=USAGE)
    return [name for name in PROCESSES if (not only or name in only) and name not in without]


@contextlib.contextmanager
def running(
    settings: Settings, names: Sequence[str], *, embedded: bool, say: Say, echo: bool = False
) -> Iterator[Running]:
    """Start the system and stop it when the block ends, however it ends.

    Embedded Kafka and ClickHouse live in `data_dir/kafka` and `data_dir/clickhouse`. Raises `WeirError` when something
    cannot start; what had started is stopped first.
    """
    with contextlib.ExitStack() as stack:
        if embedded:
            settings = _start_embedded(settings, stack, say)
        if not settings.api.token.get_secret_value():
            token = SecretStr("weir_" + secrets.token_urlsafe(24))
            settings = settings.model_copy(update={"api": settings.api.model_copy(update={"token": token})})
        _prepare(settings, say)
        path = write_running(settings)
        stack.callback(path.unlink, missing_ok=True)
        supervisor = Supervisor(
            [_child(name, path) for name in names], logs=settings.data_dir / "logs", say=say, echo=echo
        )
        stack.callback(supervisor.stop)
        supervisor.start()
        yield Running(settings, supervisor)


def up(settings: Settings, *, only: Sequence[str], without: Sequence[str], embedded: bool) -> None:
    """Run until Ctrl-C or SIGTERM and say what happens."""
    names = chosen(only, without)
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with running(settings, names, embedded=embedded, say=_say) as system:
            _say("up", f"{len(names)} processes: {', '.join(names)}; logs in {system.settings.data_dir / 'logs'}")
            if "api" in names:
                print(f"\n  page   {system.page}", flush=True)
            if "serve" in names:
                serve = system.settings.serve
                print(f"  serve  http://{serve.host}:{serve.port}/v1/predict", flush=True)
            print(f"  kafka  {system.settings.kafka.bootstrap}\n\n  Ctrl-C stops everything.\n", flush=True)
            stop.wait()
            _say("up", "stopping, the last started first")
        _say("up", "stopped")
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start_embedded(settings: Settings, stack: contextlib.ExitStack, say: Say) -> Settings:
    from services.local.clickhouse import LocalClickHouse
    from services.local.kafka import LocalKafka

    tell: Callable[[str], None] = lambda text: say("clickhouse", text)  # noqa: E731
    clickhouse = stack.enter_context(LocalClickHouse(settings.data_dir / "clickhouse", told=tell))
    kafka = stack.enter_context(LocalKafka(settings.data_dir / "kafka"))
    say("kafka", f"up at {kafka.bootstrap}")
    say("clickhouse", f"up at {clickhouse.url}")
    address = {
        "host": clickhouse.host,
        "port": clickhouse.port,
        "user": clickhouse.user,
        "password": SecretStr(clickhouse.password),
        "secure": False,
    }
    return settings.model_copy(
        update={
            "data_dir": settings.data_dir.absolute(),
            "kafka": settings.kafka.model_copy(update={"bootstrap": kafka.bootstrap}),
            "clickhouse": settings.clickhouse.model_copy(update=address),
        }
    )


def _prepare(settings: Settings, say: Say) -> None:
    from services.record.tables import migrate
    from streams.runtime.kafka import ensure_topics

    created = ensure_topics(settings)
    if created:
        say("topics", f"created {len(created)}")
    migrate(settings)


def _child(name: str, run_file: Path) -> Child:
    environment = {"WEIR_CONFIG": str(run_file), "PYTHONUNBUFFERED": "1"}
    return Child(name, [sys.executable, "-m", "services.cli", name], environment)


def _say(child: str, text: str) -> None:
    print(f"{child:>10}  {text}", file=sys.stderr, flush=True)
