"""From a desired state to models that answer: read, checked against their trainer's scores, warmed up, then complete.

A `Served` state is immutable. A request takes it once and keeps to it, so that replacing the reference is the whole
swap: no request waits, and a model is freed when the last request that uses it (shadows included) is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from schemas.errors import WeirError
from schemas.lifecycle import Deployment, Promote
from schemas.settings import Settings
from services.serve.routing import Router, layer_of, problems, salt_of
from services.train.artifact import locate

if TYPE_CHECKING:
    from services.train.model import Model


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployment with its model, and the experiment tags of what it answers."""

    deployment: Deployment
    model: Model
    experiments: dict[str, str]


@dataclass(frozen=True, slots=True)
class Served:
    """What answers now: `deployed` in the order of the desired state, `shadows` those that answer after the answer."""

    promote: Promote
    deployed: tuple[Deployed, ...]
    shadows: tuple[Deployed, ...]
    router: Router


Loaded = Mapping[tuple[str, str, str], "Model"]
"""Models at hand, by (model, version, artifact)."""


def key_of(promote: Promote, deployment: Deployment) -> tuple[str, str, str]:
    """Give what tells models apart. An artifact is never changed once it is written."""
    return promote.model, deployment.version, deployment.artifact


def serve_state(settings: Settings, promote: Promote, loaded: Loaded) -> Served:
    """Load what is not `loaded` yet, and put a state together.

    Raises `WeirError` that says what is wrong with the desired state or with an artifact.
    """
    wrong = problems(promote)
    if wrong:
        raise WeirError(
            f"revision {promote.revision} of endpoint {promote.endpoint!r} cannot be served: {'; '.join(wrong)}",
            fix="send a higher revision with primary weights that sum to 1",
        )
    layer = layer_of(promote)
    deployed = []
    for one in promote.deployments:
        model = loaded.get(key_of(promote, one)) or _load(settings, promote.model, one)
        deployed.append(Deployed(one, model, {layer: one.arm} if layer and one.arm else {}))
    return Served(
        promote=promote,
        deployed=tuple(deployed),
        shadows=tuple(one for one in deployed if one.deployment.role == "shadow"),
        router=Router(promote.deployments, salt_of(promote)),
    )


def _load(settings: Settings, name: str, deployment: Deployment) -> Model:
    from services.train.model import Model

    model = Model.load(_path(settings, name, deployment))
    if (model.model, model.version) != (name, deployment.version):
        raise WeirError(
            f"deployment {deployment.deployment!r} names {name!r} version {deployment.version!r}, but its artifact "
            f"holds {model.model!r} version {model.version!r}",
            fix="correct `version` or `artifact` of the desired state",
        )
    model.warm_up()
    return model


def _path(settings: Settings, name: str, deployment: Deployment) -> Path:
    """Give the directory of an artifact: a path (relative to the registry or absolute) or a `file:` address."""
    artifact = deployment.artifact
    if "://" in artifact:
        parts = urlsplit(artifact)
        if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
            raise WeirError(
                f"artifact {artifact!r} of deployment {deployment.deployment!r} is on no disk that this server sees",
                fix="give a path in the registry, or a file:// address",
            )
        artifact = unquote(parts.path)
    return locate(settings, name, deployment.version, artifact)
