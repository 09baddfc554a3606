"""A model on disk: a directory of three files in a registry, written once, checked whenever it is read.

    registry/<model>/<version>/weights.safetensors   tensors of the network, and nothing else
                               model.json            a `Card`: everything to use the model and to believe it
                               sha256                `sha256sum` lines over both

No pickle is ever read. A directory appears whole or not at all: it is written under a temporary name, forced to disk
and renamed. A version belongs to the run that wrote it: the same run saves it again without effect, another is refused.
Torch is imported when a `Model` is made, not before.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote, unquote

import msgspec
from numpy.typing import NDArray

from schemas.control import Reference
from schemas.errors import WeirError
from schemas.event import Name, Share, TimeMs
from schemas.measures import Metric
from schemas.settings import Settings

if TYPE_CHECKING:
    from services.train.model import Model

FORMAT: Final = 1
LIMIT: Final = 10.0
"""How far from its mean, in scales, a feature may lie before it counts as that far: a wild value must not rule."""
WEIGHTS, CARD, SUMS = "weights.safetensors", "model.json", "sha256"
_LONGEST = 200
_AGAIN = "train the version again, or copy the directory anew from where it was trained"

Weights = dict[str, NDArray[Any]]


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of a network. `inputs` = features + flags; `hidden` are the widths of an `mlp`'s hidden layers."""

    kind: Literal["logistic", "mlp"]
    inputs: int
    hidden: list[int] = []


class Lineage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model was made of. `dataset` is the content hash of the pinned rows, `code` the version of the trainer."""

    retrain_id: str
    base_version: str = ""
    from_ms: TimeMs
    to_ms: TimeMs
    dataset: str
    rows: int
    pins: dict[str, int] = {}
    code: str = ""
    seed: int = 0
    device: str = "cpu"
    torch: str = ""


class Probe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows with the scores that the trainer got for them: a server that gets others must not serve the model."""

    rows: list[dict[str, float]]
    scores: list[float]


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `model.json` says.

    Input i of the network is feature i, `(x - mean[i]) / scale[i]` clipped to ±`limit`, 0 where it is missing; then,
    for each name in `flags`, 1 where that feature is missing, else 0. The predicted class is `score ≥ threshold`.
    `metrics` are this model's on its hold-out, `champion` the base version's on the same rows.
    """

    v: int = FORMAT
    model: Name
    version: Name
    framework: Literal["torch"] = "torch"
    network: Network
    features: list[str]
    flags: list[str] = []
    mean: list[float]
    scale: list[float]
    limit: float = LIMIT
    threshold: Share = 0.5
    reference: Reference
    metrics: list[Metric] = []
    champion: list[Metric] = []
    baselines: dict[str, float] = {}
    lineage: Lineage
    probe: Probe
    created_at_ms: TimeMs

    def __post_init__(self) -> None:
        wide = len(self.features)
        if not wide or len(set(self.features)) != wide:
            raise ValueError(f"`features` must be distinct names, at least one, got {self.features}")
        if len(self.mean) != wide or len(self.scale) != wide:
            raise ValueError(f"`mean` and `scale` need {wide} numbers, got {len(self.mean)} and {len(self.scale)}")
        if not all(scale > 0 for scale in self.scale):
            raise ValueError(f"`scale` must be positive, got {self.scale}")
        if not set(self.flags) <= set(self.features):
            raise ValueError(f"`flags` must be features, got {sorted(set(self.flags) - set(self.features))}")
        if self.network.inputs != wide + len(self.flags):
            raise ValueError(f"the network has {self.network.inputs} inputs for {wide} + {len(self.flags)} columns")
        if len(self.probe.rows) != len(self.probe.scores):
            raise ValueError(f"{len(self.probe.rows)} probe rows have {len(self.probe.scores)} scores")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model version with its weights. `path` and `sha256` (of the file of hashes) are set once it is on disk."""

    card: Card
    weights: Weights
    path: Path | None = None
    sha256: str = ""

    def __str__(self) -> str:
        """Give the place on disk, as `Candidate.artifact` and `Deployment.artifact` say it."""
        return str(self.path.absolute()) if self.path else f"{self.card.model} {self.card.version} (not saved)"


def registry_of(settings: Settings) -> Path:
    """Give the registry of an installation."""
    return settings.data_dir / "registry"


def folder(root: Path, model: str, version: str = "") -> Path:
    """Give the directory of a model, or of one of its versions. Any name is safe: what is not plain is escaped.

    >>> folder(Path("registry"), "../spam", "7").as_posix()
    'registry/%2E.%2Fspam/7'
    """
    return root / _safe(model) / _safe(version) if version else root / _safe(model)


def runs_of(root: Path, model: str, retrain_id: str = "") -> Path:
    """Give the directory of a model's training runs, or of one of them."""
    home = folder(root, model) / ".runs"
    return home / _safe(retrain_id) if retrain_id else home


def locate(settings: Settings, model: str, version: str, artifact: str = "") -> Path:
    """Give the directory that a `Candidate` or `Deployment` means: its `artifact` if that is here, else by version.

    So a registry may be mounted elsewhere than where the trainer saw it.
    """
    named = Path(artifact)
    return named if artifact and (named / SUMS).is_file() else folder(registry_of(settings), model, version)


def load_model(settings: Settings, model: str, version: str) -> Model:
    """Load a version from the registry, ready to score; as a context manager it unloads in the end.

    Raises `WeirError` as `load` does.
    """
    from services.train.model import Model

    return Model(load(locate(settings, model, version)))


def versions(root: Path, model: str) -> list[str]:
    """Give the versions of a model that are on disk: numbers ascending, then other names."""
    try:
        found = [entry.name for entry in os.scandir(folder(root, model)) if (Path(entry.path) / SUMS).is_file()]
    except FileNotFoundError:
        return []
    named = [unquote(name) for name in found if not name.startswith(".")]
    return sorted(named, key=lambda name: (0, _number(name), name) if _number(name) else (1, 0, name))


def next_version(taken: Iterable[str]) -> str:
    """Give one more than the greatest number among the versions, written as that one is; `1` when there is none.

    >>> next_version(["v1", "v2", "blue"]), next_version(["9", "10"]), next_version([])
    ('v3', '11', '1')
    """
    last = max(taken, key=_number, default="")
    return ("v" if last.startswith("v") and _number(last) else "") + str(_number(last) + 1)


def save(root: Path, artifact: Artifact) -> Artifact:
    """Put an artifact into the registry, durably, and give it back with its path and hash.

    The version of another run is never overwritten: raises `WeirError`. When this run (by `lineage.retrain_id`) already
    saved it, that one is checked and given back, and nothing is written.
    """
    card = artifact.card
    target = folder(root, card.model, card.version)
    with locked(root, card.model):
        if target.exists():
            return _kept(target, card)
        for orphan in target.parent.glob(".writing-*"):  # we hold the lock: its writer is gone
            shutil.rmtree(orphan)
        temporary = target.parent / f".writing-{uuid.uuid4().hex[:12]}"
        temporary.mkdir()
        sums = []
        for name, body in ((CARD, _encode(card)), (WEIGHTS, _tensor_bytes(artifact.weights))):
            write_durably(temporary / name, body)
            sums.append(f"{hashlib.sha256(body).hexdigest()}  {name}\n")
        text = "".join(sums).encode()
        write_durably(temporary / SUMS, text)
        sync_directory(temporary)
        os.rename(temporary, target)
        sync_directory(target.parent)
    return Artifact(card, artifact.weights, target, hashlib.sha256(text).hexdigest())


def load(path: Path, *, sha256: str = "") -> Artifact:
    """Read an artifact and check every byte of it; with `sha256` also that it is the one a candidate announced.

    Raises `WeirError` that says what is missing, changed, or of a format that this version does not know.
    """
    try:
        sums, body, tensors = ((path / name).read_bytes() for name in (SUMS, CARD, WEIGHTS))
    except OSError as error:
        raise WeirError(f"{path} is no model: {error.strerror}: {error.filename}", fix=_AGAIN) from None
    found = hashlib.sha256(sums).hexdigest()
    if sha256 and found != sha256:
        raise WeirError(f"{path} is not the announced model: sha256 {found}, expected {sha256}", fix=_AGAIN)
    lines = (line.partition("  ") for line in sums.decode("utf-8", "replace").splitlines())
    said = {name: digest for digest, _, name in lines}
    for name, content in ((CARD, body), (WEIGHTS, tensors)):
        actual = hashlib.sha256(content).hexdigest()
        if said.get(name) != actual:
            raise WeirError(
                f"{path / name} is damaged: its sha256 is {actual}, {SUMS} says {said.get(name, 'nothing')}", fix=_AGAIN
            )
    return Artifact(_decode(path, body), _tensors(path, tensors), path, found)


@contextmanager
def locked(root: Path, model: str) -> Iterator[None]:
    """Hold a model's part of the registry against other writers. The kernel lets go when the process dies."""
    home = folder(root, model)
    home.mkdir(parents=True, exist_ok=True)
    fd = os.open(home / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def write_durably(path: Path, body: bytes) -> None:
    """Write a file and force it to disk; the directory entry is forced by `sync_directory`."""
    with path.open("wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Force a directory's entries to disk."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _kept(target: Path, card: Card) -> Artifact:
    kept = load(target)
    if kept.card.lineage.retrain_id != card.lineage.retrain_id:
        raise WeirError(
            f"version {card.version!r} of {card.model!r} belongs to run {kept.card.lineage.retrain_id!r}, "
            f"not to {card.lineage.retrain_id!r}",
            fix="choose another version, or remove that directory if nothing serves it",
        )
    return kept


def _encode(card: Card) -> bytes:
    return msgspec.json.format(msgspec.json.encode(card, order="deterministic"), indent=1) + b"\n"


def _decode(path: Path, body: bytes) -> Card:
    try:
        said = msgspec.json.decode(body)
        v = said.get("v") if isinstance(said, dict) else None
        if v != FORMAT:
            raise WeirError(
                f"{path / CARD} has format {v!r}; this Weir reads {FORMAT}",
                fix="use the Weir that trained the model, or train it again",
            )
        return msgspec.convert(said, Card)
    except msgspec.MsgspecError as error:
        raise WeirError(f"{path / CARD} is not understood: {error}", fix=_AGAIN) from None


def _tensor_bytes(weights: Weights) -> bytes:
    from safetensors.numpy import save as save_tensors

    return bytes(save_tensors({name: weights[name] for name in sorted(weights)}))


def _tensors(path: Path, body: bytes) -> Weights:
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_tensors

    try:
        return dict(load_tensors(body))
    except SafetensorError as error:
        raise WeirError(f"{path / WEIGHTS} is not understood: {error}", fix=_AGAIN) from None


def _safe(name: str) -> str:
    plain = re.sub(r"^\.", "%2E", quote(name, safe=" @=+,"))
    if len(plain) <= _LONGEST:
        return plain
    return f"{plain[:_LONGEST]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _number(version: str) -> int:
    """Give the number in `7` or `v7`; 0 for other names."""
    counted = re.fullmatch(r"v?([0-9]{1,18})", version)
    return int(counted[1]) if counted else 0
