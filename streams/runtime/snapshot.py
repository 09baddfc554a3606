"""Incremental snapshots of one partition's state: a manifest names the parts, packs hold their bytes.

A dump gives the parts that changed since the last one (`Processor.dump`). They go, concatenated, into packs: objects
that are written once and shared by later manifests. A manifest (`manifest`) says of every part of the state in which
pack it lies, so reading a state is reading its manifest's parts, whoever wrote them when. Packs come first, the
manifest last: what a manifest names is there.

A pack of which less than half is still needed is copied into the next one, and so are the smallest when there are many:
snapshots take at most about twice the room of the state, and a manifest few packs. The last two readable manifests are
kept with their packs; the rest is deleted. Nothing is compressed: at 0.4 to 0.6 GB a second that costs more CPU than
writing, and the state's bytes are dense.

Several writers. A worker that lost its slot may write one more snapshot while its successor writes. Their packs have
different names, each deletes only packs of steps before its own snapshot, and such a worker's snapshot is never ahead
of what its successor began with. If a part is missing nevertheless, the snapshot cannot be read, and the one before is.

The name of the folder carries the id of the `steps` topic: a namespace that was deleted and created anew starts over
instead of finding the state of its former life.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import structlog
import xxhash

from schemas.settings import Settings
from streams.runtime.manifest import Header, Manifest, Part, Parts, SnapshotUnreadable, decode, encode
from streams.runtime.objects import Objects, objects_of
from streams.runtime.processor import Body, flat

_MANIFEST, _PACK = ".snapshot", ".parts"
KEPT = 2
PACK_BYTES = 128 << 20
MOST_PACKS = 32

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is to be kept: on top of the manifest `base`, the parts that changed (None: gone); all parts without one."""

    header: Header
    parts: Mapping[str, Body | None]
    base: Manifest | None = None


class SnapshotStore:
    """The snapshots of one stage: `NAMESPACE/STAGE/LOG/PARTITION/STEP.snapshot`. `log` names the `steps` topic."""

    def __init__(self, objects: Objects, namespace: str, stage: str, log: str) -> None:
        parts = (namespace, stage, log)
        if any(part in ("", ".", "..") or "/" in part for part in parts):
            raise ValueError(f"snapshots need plain names for their folders, not {parts}")
        self.objects = objects
        self._folder = "/".join(parts)
        self._writer = uuid.uuid4().hex[:8]
        self._written = 0
        self._used: dict[str, frozenset[str]] = {}
        self._broken: set[str] = set()

    @classmethod
    def of(cls, settings: Settings, stage: str, log: str) -> SnapshotStore:
        """Give the store where the settings say. Raises `WeirError` (usage)."""
        return cls(objects_of(settings), settings.namespace, stage, log)

    def write(self, snapshot: Snapshot) -> Manifest:
        """Keep a snapshot for good and drop what is older than the last two.

        Raises `OSError` (disk full and the like) and `SnapshotUnreadable` (what the base had is gone or altered): after
        either the next snapshot must have no base.
        """
        header, folder = snapshot.header, self._of(snapshot.header.partition)
        there = self.objects.names(folder)
        base, pieces = self._sorted(snapshot, there)
        kept, sizes = dict(base.parts), dict(base.packs)
        for group in _grouped(pieces):
            pack = f"{header.step:020d}-{self._writer}-{self._written}{_PACK}"
            self._written += 1
            made = self._put(folder, pack, group)
            sizes[pack] = sum(part.length for part in made.values())
            kept |= made
        used = {part.pack for part in kept.values()}
        manifest = Manifest(header, {pack: size for pack, size in sizes.items() if pack in used}, kept)
        name = f"{header.step:020d}{_MANIFEST}"
        self.objects.put(f"{folder}/{name}", [encode(manifest)])
        self._used[f"{folder}/{name}"] = frozenset(used)
        self._broken.discard(f"{folder}/{name}")
        try:
            self._prune(folder, header.step, [*there, *used - {*there}, *{name} - {*there}])
        except OSError as error:
            _log.warning("snapshots_not_pruned", where=self.objects.where, folder=folder, reason=str(error))
        return manifest

    def newest(
        self, partition: int, *, up_to_step: int, refused: Callable[[str, str], None] | None = None
    ) -> Iterator[tuple[Manifest, Parts]]:
        """Yield the snapshots of a partition whose manifest can be read, newest first.

        `refused` is told of the others: which one, and why.
        """
        folder = self._of(partition)
        refused = refused or (lambda which, why: None)
        try:
            names = [name for name in self.objects.names(folder) if name.endswith(_MANIFEST)]
        except OSError as error:
            _log.error("snapshots_unknown", where=self.objects.where, folder=folder, reason=str(error))
            refused("all snapshots", str(error))
            return
        for name in reversed(names):
            if _step_of(name) > up_to_step:
                _log.warning("snapshot_ahead", folder=folder, snapshot=name, committed_step=up_to_step)
                refused(f"snapshot of step {_step_of(name)}", f"it is ahead of the committed step {up_to_step}")
                continue
            try:
                manifest = decode(self.objects.get(f"{folder}/{name}"))
            except (SnapshotUnreadable, OSError) as error:
                _log.warning("snapshot_unreadable", folder=folder, name=name, reason=str(error), next="the one before")
                refused(f"snapshot of step {_step_of(name)}", str(error))
                continue
            self._used[f"{folder}/{name}"] = frozenset(manifest.packs)
            yield manifest, self._parts(folder, manifest, partial(self._broken.add, f"{folder}/{name}"))

    def _parts(self, folder: str, manifest: Manifest, broken: Callable[[], None] = lambda: None) -> Parts:
        return Parts(manifest, lambda pack: self.objects.reader(f"{folder}/{pack}"), broken)

    def _of(self, partition: int) -> str:
        return f"{self._folder}/{partition:05d}"

    def _sorted(self, snapshot: Snapshot, there: Sequence[str]) -> tuple[Manifest, list[_Piece]]:
        """Give the base with only those of its parts that stay where they are, and what has to be written."""
        pieces = [_Piece(name, flat(body)) for name, body in snapshot.parts.items() if body is not None]
        base = snapshot.base
        if base is None:
            return Manifest(snapshot.header), pieces
        folder = self._of(snapshot.header.partition)
        kept = {name: part for name, part in base.parts.items() if name not in snapshot.parts}
        sizes = dict(base.packs)
        if not {part.pack for part in kept.values()} <= set(there):
            kept, sizes = self._found_again(folder, there, base, kept)
        live: dict[str, int] = {}
        for part in kept.values():
            live[part.pack] = live.get(part.pack, 0) + part.length
        folded = {pack for pack, length in live.items() if 2 * length < sizes[pack]}
        rest = sorted(live.keys() - folded, key=lambda pack: live[pack])
        folded.update(rest[: max(0, len(rest) - MOST_PACKS)])
        parts = self._parts(folder, Manifest(base.header, sizes, dict(kept)))
        for name, part in list(kept.items()):
            if part.pack in folded:
                pieces.append(_Piece(name, None, part.length, parts))
                del kept[name]
        return Manifest(base.header, sizes, kept), pieces

    def _found_again(
        self, folder: str, there: Sequence[str], base: Manifest, kept: Mapping[str, Part]
    ) -> tuple[dict[str, Part], dict[str, int]]:
        """Say where the base's parts lie now that its packs are gone: who followed another worker has an old base."""
        sizes: dict[str, int] = {}
        places: dict[tuple[bytes, int], Part] = {}
        for name in there:
            if name.endswith(_MANIFEST):
                try:
                    manifest = decode(self.objects.get(f"{folder}/{name}"))
                except (SnapshotUnreadable, OSError):
                    continue
                sizes |= manifest.packs
                places |= {(part.digest, part.length): part for part in manifest.parts.values() if part.pack in there}
        lost = [name for name, part in kept.items() if (part.digest, part.length) not in places]
        if lost:
            raise SnapshotUnreadable(f"parts of the snapshot of step {base.header.step} are gone: {lost[:3]}")
        return {name: places[part.digest, part.length] for name, part in kept.items()}, sizes

    def _put(self, folder: str, pack: str, group: Sequence[_Piece]) -> dict[str, Part]:
        made: dict[str, Part] = {}

        def bodies() -> Iterator[bytes | memoryview]:
            offset = 0
            for piece in group:
                body = piece.give()
                made[piece.name] = Part(pack, offset, piece.length, xxhash.xxh3_128_digest(body))
                offset += piece.length
                yield body

        self.objects.put(f"{folder}/{pack}", bodies())
        return made

    def _prune(self, folder: str, step: int, there: Sequence[str]) -> None:
        """Delete the manifests before the last two that can be read, and packs that no manifest left names."""
        manifests = sorted((name for name in there if name.endswith(_MANIFEST)), reverse=True)
        needed: set[str] = set()
        readable, garbage = 0, []
        for name in manifests:
            used = self._used_by(f"{folder}/{name}") if readable < KEPT else None
            if used is None or not used <= set(there):
                garbage.append(name)
            else:
                needed |= used
                readable += _step_of(name) <= step
        garbage += [name for name in there if name.endswith(_PACK) and name not in needed and _step_of(name) < step]
        for name in garbage:
            self._used.pop(f"{folder}/{name}", None)
        self.objects.delete([f"{folder}/{name}" for name in garbage])

    def _used_by(self, name: str) -> frozenset[str] | None:
        """Give the packs that a manifest names; None when it, or what it names, was found unreadable."""
        if name in self._broken:
            return None
        if name not in self._used:
            try:
                self._used[name] = frozenset(decode(self.objects.get(name)).packs)
            except (SnapshotUnreadable, FileNotFoundError):
                return None
        return self._used[name]


class _Piece:
    """A part that has to be written: its bytes, or where they lie so far."""

    __slots__ = ("_body", "_parts", "length", "name")

    def __init__(self, name: str, body: memoryview | None, length: int = 0, parts: Parts | None = None) -> None:
        self.name, self._body, self._parts = name, body, parts
        self.length = length if body is None else body.nbytes

    def give(self) -> bytes | memoryview:
        if self._body is None:
            assert self._parts is not None
            return self._parts[self.name]
        return self._body


def _grouped(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """Give groups of at most `PACK_BYTES`, or of one piece."""
    group: list[_Piece] = []
    room = PACK_BYTES
    for piece in pieces:
        if group and piece.length > room:
            yield group
            group, room = [], PACK_BYTES
        group.append(piece)
        room -= piece.length
    if group:
        yield group


def _step_of(name: str) -> int:
    digits = name[:20]
    return int(digits) if digits.isdecimal() else 0
