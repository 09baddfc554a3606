"""Where snapshots lie: a directory, or object storage. Objects are written once, whole, and never changed.

`Files` writes under a temporary name, syncs, renames: an object with a final name is whole unless the disk lies.
`Stored` goes through obstore (S3, Google, Azure, memory), where a put is whole or not there. Both raise `OSError` for
whatever the place does not do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from schemas.errors import USAGE, WeirError
from schemas.settings import Settings
from streams.runtime.processor import Body, flat

if TYPE_CHECKING:
    from obstore.store import ObjectStore

Read = Callable[[int, int], bytes]
"""From an offset and a length to bytes; fewer when the object ends before."""


class Objects(Protocol):
    """A place for objects with names like `a/b/c`. Names under one another are not told apart by anything else."""

    where: str

    def put(self, name: str, pieces: Iterable[Body]) -> None:
        """Keep an object for good: when this returns it survives a crash, and before nobody sees it."""
        ...

    def get(self, name: str) -> bytes:
        """Give a whole object. Raises `FileNotFoundError`."""
        ...

    def reader(self, name: str) -> Read:
        """Give what reads parts of an object."""
        ...

    def names(self, under: str) -> list[str]:
        """Give the names of the objects in a folder, in order, without it."""
        ...

    def delete(self, names: Sequence[str]) -> None:
        """Forget objects; one that is not there is forgotten already."""
        ...


def objects_of(settings: Settings) -> Objects:
    """Give the place that the settings name. Raises `WeirError` (usage) for a URL that leads nowhere."""
    url = settings.runtime.snapshots
    if not url:
        return Files(settings.data_dir / "snapshots")
    if urlsplit(url).scheme == "file":
        return Files(Path(url2pathname(urlsplit(url).path)))
    fix = "runtime.snapshots (WEIR_RUNTIME__SNAPSHOTS) is s3://BUCKET/PREFIX, gs://…, az://…, file:///PATH, or empty"
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ModuleNotFoundError:
        raise WeirError(f"snapshots at {url} need the library obstore", fix="pip install obstore", code=USAGE) from None
    try:
        return Stored(from_url(url), url)
    except (BaseError, ValueError) as error:
        raise WeirError(f"snapshots cannot be kept at {url!r}: {_said(error)}", fix=fix, code=USAGE) from None


class Files:
    """Objects as files below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.where = str(root)

    def put(self, name: str, pieces: Iterable[Body]) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # The name is our own: a worker that lost its slot may still be writing the same object.
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                for piece in pieces:
                    file.write(flat(piece))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync(path.parent)
        for other in path.parent.glob("*.tmp"):  # left by a process that was killed while it wrote
            if not _alive(other):
                other.unlink(missing_ok=True)

    def get(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def reader(self, name: str) -> Read:
        path = self.root / name

        def read(offset: int, length: int) -> bytes:
            # Not mapped into memory: a disk that fails there ends the process instead of raising.
            with path.open("rb", buffering=0) as file:
                return os.pread(file.fileno(), length, offset)

        return read

    def names(self, under: str) -> list[str]:
        folder = self.root / under
        return sorted(path.name for path in folder.iterdir() if path.suffix != ".tmp") if folder.is_dir() else []

    def delete(self, names: Sequence[str]) -> None:
        for name in names:
            (self.root / name).unlink(missing_ok=True)


class Stored:
    """Objects in a store of obstore's."""

    def __init__(self, store: ObjectStore, where: str = "") -> None:
        self._store = store
        self.where = where or repr(store)

    def put(self, name: str, pieces: Iterable[Body]) -> None:
        import obstore

        with _as_os_error():
            obstore.put(self._store, name, b"".join(flat(piece) for piece in pieces))

    def get(self, name: str) -> bytes:
        import obstore

        with _as_os_error():
            return bytes(obstore.get(self._store, name).bytes())

    def reader(self, name: str) -> Read:
        # Whole at the first read: a request for each part would cost more than the parts that nobody asks for.
        held: list[bytes] = []

        def read(offset: int, length: int) -> bytes:
            if not held:
                held.append(self.get(name))
            return held[0][offset : offset + length]

        return read

    def names(self, under: str) -> list[str]:
        import obstore

        with _as_os_error():
            found = [str(one["path"]) for batch in obstore.list(self._store, f"{under}/") for one in batch]
        return sorted(path.rpartition("/")[2] for path in found)

    def delete(self, names: Sequence[str]) -> None:
        import obstore

        for name in names:
            try:
                with _as_os_error():
                    obstore.delete(self._store, name)
            except FileNotFoundError:
                continue


@contextmanager
def _as_os_error() -> Iterator[None]:
    from obstore.exceptions import BaseError, NotFoundError

    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise FileNotFoundError(_said(error)) from None
    except BaseError as error:
        raise OSError(_said(error)) from None


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _alive(temporary: Path) -> bool:
    try:
        os.kill(int(temporary.suffixes[-2][1:]), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, IndexError):
        return True
    return True


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
