"""The jars of the embedded Kafka: resolved once into a committed lock, downloaded once into the user's cache.

`kafka.lock.toml` names every jar by Maven coordinate with its SHA-256 and size; it was written by `relock()` through
jgo's resolver (pure Python: neither Maven nor Java is needed). A download goes to a temporary directory, is compared
with the lock and only then renamed into the cache, so whatever lies there under its own name was once complete and
right, however the process that fetched it ended, and several processes may fetch at once.

The cache is that of `services.local.cache`. One directory per lock: another lock never mixes with it.
A mirror is named in jgo's own configuration file, section `[repositories]`; the lock does not care where a jar is from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from services.local.cache import cache_dir

LOCK_PATH = Path(__file__).with_name("kafka.lock.toml")
KAFKA_VERSION = "4.3.1"
# The log4j binding is "raw" (!): jgo would otherwise take the versions that log4j's own build manages, and those
# name an old kafka-clients.
COORDINATES = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4!")
_PARALLEL = 6
_TIMEOUT_S = 60

Say = Callable[[str], None]


class JarsUnavailable(RuntimeError):
    """A jar could not be fetched, or what came is not what the lock names. Nothing wrong was kept."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One locked jar: `coordinate` is group:artifact:version."""

    coordinate: str
    sha256: str
    size: int

    @property
    def file_name(self) -> str:
        """
        >>> Jar("org.slf4j:slf4j-api:1.7.36", "", 0).file_name
        'slf4j-api-1.7.36.jar'
        """
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


@cache
def read_lock(path: Path = LOCK_PATH) -> tuple[Jar, ...]:
    """The locked jars in class path order."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["jar"]
    return tuple(Jar(entry["coordinate"], entry["sha256"], entry["bytes"]) for entry in entries)


def jar_directory(root: Path | None = None, lock: Path = LOCK_PATH) -> Path:
    """The directory for exactly the jars of this lock, in the cache `root` (default: the user's)."""
    digest = hashlib.sha256("\n".join(jar.sha256 for jar in read_lock(lock)).encode()).hexdigest()
    return (root / "kafka" if root else cache_dir("kafka")) / f"{KAFKA_VERSION}-{digest[:12]}"


def ensure_jars(
    root: Path | None = None, *, verify: bool = False, say: Say | None = None, lock: Path = LOCK_PATH
) -> list[Path]:
    """The jars' paths in class path order, after fetching those that are missing.

    A present jar of the right size is trusted; `verify=True` also hashes it (0.2 s for all) and fetches it again when
    it differs. `say` gets what will be downloaded first, then the progress; nothing when nothing is missing.
    Raises `JarsUnavailable`; what was fetched before the error is kept.
    """
    directory = jar_directory(root, lock)
    jars = read_lock(lock)
    missing = [jar for jar in jars if not _is_right(directory / jar.file_name, jar, hashed=verify)]
    if missing:
        directory.mkdir(parents=True, exist_ok=True)
        _fetch_all(missing, directory, say or (lambda _: None))
    return [directory / jar.file_name for jar in jars]


def _is_right(path: Path, jar: Jar, *, hashed: bool) -> bool:
    try:
        return path.stat().st_size == jar.size and (not hashed or _sha256(path) == jar.sha256)
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_all(jars: Sequence[Jar], directory: Path, say: Say) -> None:
    total = sum(jar.size for jar in jars)
    say(f"Apache Kafka {KAFKA_VERSION}: downloading {len(jars)} jars, {total / 1e6:.1f} MB, once, into {directory}")
    done, done_bytes = 0, 0
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=directory) as staging:

        def fetch(jar: Jar) -> Jar:
            _fetch(jar, Path(staging), directory)
            return jar

        with ThreadPoolExecutor(_PARALLEL) as pool:
            try:
                for jar in pool.map(fetch, jars):
                    done, done_bytes = done + 1, done_bytes + jar.size
                    say(f"  {done}/{len(jars)} jars, {done_bytes / 1e6:.1f} of {total / 1e6:.1f} MB")
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise


def _fetch(jar: Jar, staging: Path, directory: Path) -> None:
    """Download, compare, rename. A first mismatch is tried again: a broken transfer is likelier than a wrong jar."""
    came = ""
    for attempt in ("first", "second"):
        try:
            path = _download(jar, staging / attempt)
        except Exception as error:  # jgo raises RuntimeError, its transport OSError and others of its own
            raise JarsUnavailable(
                f"could not download {jar.coordinate} for the embedded Kafka: {error}. "
                f"Check the network or proxy, or name a mirror in jgo's configuration file ([repositories]), and run "
                f"the same command again: finished jars are kept. Without a network, copy the jars of another machine "
                f"into {directory}."
            ) from error
        came = _sha256(path)
        if came == jar.sha256:
            os.replace(path, directory / jar.file_name)
            return
    raise JarsUnavailable(
        f"{jar.coordinate} is not the jar that the lock names: expected sha256 {jar.sha256}, twice came {came}. "
        f"It was not kept. A proxy or mirror probably altered it: fetch it through another network and compare. "
        f"Do not change the lock to fit, unless the version was raised on purpose (then run `relock`)."
    )


def _download(jar: Jar, into: Path) -> Path:
    from jgo.parse import Coordinate

    artifact = _context(into).create_dependency(Coordinate.parse(jar.coordinate)).artifact
    return Path(artifact.resolve())


def _context(repository: Path) -> Any:
    """A jgo context that stores into `repository` and honours the mirrors in the user's jgo configuration."""
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext, PythonResolver

    mirrors = GlobalSettings.load().repositories or None
    return MavenContext(
        resolver=PythonResolver(), repo_cache=repository, local_repos=[], remote_repos=mirrors, timeout=_TIMEOUT_S
    )


def relock(path: Path = LOCK_PATH, say: Say = print) -> None:
    """Resolve `COORDINATES` anew and write the lock: for a new Kafka version, after raising `KAFKA_VERSION`."""
    from jgo.parse import Coordinate

    repository = Path(tempfile.mkdtemp(prefix="weir-relock-"))
    try:
        context = _context(repository)
        wanted = [context.create_dependency(Coordinate.parse(coordinate)) for coordinate in COORDINATES]
        direct, indirect = context.resolver.resolve(wanted)
        lines = ["# Written by `python -m services.local.setup --relock`; not by hand.", f'kafka = "{KAFKA_VERSION}"']
        for dependency in [*direct, *indirect]:
            artifact = dependency.artifact
            file = Path(artifact.resolve())
            coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
            lines += ["", "[[jar]]", f'coordinate = "{coordinate}"', f'sha256 = "{_sha256(file)}"']
            lines += [f"bytes = {file.stat().st_size}"]
            say(f"  {coordinate}")
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(repository, ignore_errors=True)
