"""`weir up`: embedded parts first, then topics and tables, then every process, watched; all stopped on Ctrl-C."""

from __future__ import annotations

import contextlib
import functools
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pydantic import SecretStr

from schemas.errors import ENVIRONMENT, USAGE, WeirError
from schemas.settings import Settings
from services.cli.configuration import write_running
from services.cli.processes import PROCESSES
from services.local.owner import DirectoryInUse
from services.local.supervisor import Child, Say, Supervisor, next_delay_s

if TYPE_CHECKING:
    from services.local.kafka import LocalKafka

EDGES = ("serve", "api")
LISTENING_S = 60.0


WATCH_S = 0.5
LOW_MB, ENOUGH_MB = 32, 64
"""Of free disk: below the one the embedded Kafka is stopped, from the other on it is started again."""


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


def chosen(settings: Settings, only: Sequence[str], without: Sequence[str]) -> list[str]:
    """Give the processes to start, in their order; `recall` and `intake` where settings ask, or where they are named.

    Raises `WeirError` for a name that does not exist.
    """
    unknown = [name for name in (*only, *without) if name not in PROCESSES]
    if unknown:
        raise WeirError(f"no process {', '.join(unknown)}", fix=f"choose from {', '.join(PROCESSES)}", code=USAGE)
    asked = {"recall": settings.recall.enabled, "intake": bool(settings.intake.mappings)}
    usual = [name for name in PROCESSES if asked.get(name, True)]
    return [name for name in PROCESSES if name in (only or usual) and name not in without]


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
        settings = _with_ports(settings, names)
        runtime = settings.runtime.model_copy(update={"health_port": 0})  # several processes have one each
        settings = settings.model_copy(update={"runtime": runtime})
        _prepare(settings, names, say)
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
    names = chosen(settings, only, without)
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with running(settings, names, embedded=embedded, say=announce) as system:
            announce("up", f"started {', '.join(names)}; logs in {system.settings.data_dir / 'logs'}")
            _await_listening(system.settings, names, stop)
            if "api" in names:
                print(f"\n  page   {system.page}", flush=True)
            if "serve" in names:
                serve = system.settings.serve
                print(f"  serve  http://{serve.host}:{serve.port}/v1/predict", flush=True)
            print(f"  kafka  {system.settings.kafka.bootstrap}\n\n  Ctrl-C stops everything.\n", flush=True)
            stop.wait()
            announce("up", "stopping, the last started first")
        announce("up", "stopped")
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _await_listening(settings: Settings, names: Sequence[str], stop: threading.Event) -> None:
    """Wait until the edges answer, so that the addresses printed next are true when they are read."""
    deadline = time.monotonic() + LISTENING_S
    for name in EDGES:
        edge = getattr(settings, name)
        while name in names and not stop.wait(0.1):
            with contextlib.suppress(OSError), socket.create_connection((edge.host, edge.port), timeout=1):
                break
            if time.monotonic() > deadline:
                announce(name, f"does not answer yet; see {settings.data_dir / 'logs' / (name + '.log')}")
                break


def _start_embedded(settings: Settings, stack: contextlib.ExitStack, say: Say) -> Settings:
    from services.local.clickhouse import LocalClickHouse
    from services.local.kafka import LocalKafka

    told = functools.partial(say, "clickhouse")
    try:
        clickhouse = stack.enter_context(LocalClickHouse(settings.data_dir / "clickhouse", told=told))
        kafka = stack.enter_context(LocalKafka(settings.data_dir / "kafka", say=functools.partial(say, "kafka")))
    except DirectoryInUse as refused:
        raise WeirError(str(refused), fix="use the running system, stop it, or name another --data-dir") from None
    except (RuntimeError, OSError) as failed:
        raise WeirError(str(failed), fix="see the message; then start again", code=ENVIRONMENT) from None
    say("kafka", f"up at {kafka.bootstrap}")
    stack.enter_context(_watched(kafka, say))
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


def _with_ports(settings: Settings, names: Sequence[str]) -> Settings:
    """Choose a free port wherever 0 was asked for, so that every process and the person are told the same one.

    Raises `WeirError` when a port that was asked for is taken.
    """
    chosen: dict[str, int] = {}
    with contextlib.ExitStack() as held:
        for name in EDGES:
            edge = getattr(settings, name)
            if name not in names:
                continue
            try:
                taken = held.enter_context(socket.create_server((edge.host, edge.port)))
            except OSError as error:
                raise WeirError(
                    f"`{name}` cannot listen on {edge.host}:{edge.port}: {error.strerror}",
                    fix=f"free the port, or set {name}.port (WEIR_{name.upper()}__PORT); 0 takes a free one",
                    code=ENVIRONMENT,
                ) from None
            chosen[name] = taken.getsockname()[1]
    update = {name: getattr(settings, name).model_copy(update={"port": port}) for name, port in chosen.items()}
    return settings.model_copy(update=update)


@contextlib.contextmanager
def _watched(kafka: LocalKafka, say: Say) -> Iterator[None]:
    """Start the broker again, on the same ports and data, whenever it ends unasked; stop it while the disk is full.

    A broker that has seen a full disk may go on with threads dead (measured: groups without an answer for ever), so it
    is never left running there.
    """
    done = threading.Event()

    def free_mb() -> int:
        return shutil.disk_usage(kafka.data_dir).free >> 20

    def watch() -> None:
        delay_s: float | None = None
        while not done.wait(WATCH_S):
            if free_mb() < LOW_MB:
                disk = f"the disk that holds {kafka.data_dir}"
                say(
                    "kafka",
                    f"stopped, because {disk} is full ({free_mb()} MB are left): nothing acknowledged is lost; "
                    f"make room, and it starts again when {ENOUGH_MB} MB are free",
                )
                kafka.stop()
                while free_mb() < ENOUGH_MB:
                    if done.wait(WATCH_S):
                        return
            elif kafka.alive:
                continue
            else:
                delay_s = next_delay_s(delay_s, 0.0)
                say("kafka", f"ended: {kafka.failure()}; starting it again in {delay_s:g} s")
                if done.wait(delay_s):
                    return
            try:
                kafka.start()
                say("kafka", f"up again at {kafka.bootstrap}")
            except (RuntimeError, OSError) as error:
                say("kafka", str(error))

    thread = threading.Thread(target=watch, name="watch-kafka", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _prepare(settings: Settings, names: Sequence[str], say: Say) -> None:
    from services.recall.table import prepare
    from services.record.tables import migrate
    from streams.runtime.topics import ensure_topics

    created = ensure_topics(settings)
    if created:
        say("topics", f"created {len(created)}")
    migrate(settings)
    if settings.recall.enabled or "recall" in names:
        prepare(settings)  # before anything lands


def _child(name: str, run_file: Path) -> Child:
    environment = {"WEIR_CONFIG": str(run_file), "PYTHONUNBUFFERED": "1"}
    return Child(name, [sys.executable, "-m", "services.cli", name], environment)


def announce(child: str, text: str) -> None:
    """Tell a person on standard error what happens to a process: the `Say` of the command line."""
    print(f"{child:>10}  {text}", file=sys.stderr, flush=True)
