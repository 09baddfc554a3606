"""Who answers whom: a stable hash puts every subject at a point of [0, 1), and deployments own parts of it.

The challengers' parts lie at the beginning, one after the other, and the champion has what is left. With one
challenger a larger weight therefore contains a smaller one (1 % inside 5 % inside 25 %): when a canary grows, nobody
who has seen the challenger goes back. The unit is the subject, or the request where no subject is given. The salt
separates rollouts: who was in the canary of one is in the next one's with no more than its share.
"""

from __future__ import annotations

from collections.abc import Iterable

from xxhash import xxh3_64_intdigest

from schemas.lifecycle import Deployment, Promote

CHAMPION = "champion"
_TOLERANCE = 1e-6


def point(salt: str, unit: str) -> float:
    """Give a subject's place in [0, 1): the same in every process, for ever.

    >>> point("r1", "anna") == point("r1", "anna"), point("r1", "anna") == point("r2", "anna")
    (True, False)
    """
    name = salt.encode()
    # The length keeps ("ab", "c") and ("a", "bc") apart. 53 bits are what a float holds exactly.
    return (xxh3_64_intdigest(b"%d:%b%b" % (len(name), name, unit.encode())) >> 11) / (1 << 53)


def salt_of(promote: Promote) -> str:
    """Give what enters the hash: the record's own salt, else its rollout, else its endpoint."""
    return promote.salt or promote.rollout_id or promote.endpoint


def layer_of(promote: Promote) -> str:
    """Give the experiment layer that predictions of this state are tagged with; empty outside of an experiment.

    >>> layer_of(Promote(endpoint="e", model="m", revision=2, rollout_id="r", stage="canary", deployments=[], at_ms=0))
    'canary:r'
    """
    if promote.stage in ("shadow", "canary") and promote.rollout_id:
        return f"{promote.stage}:{promote.rollout_id}"
    return ""


def problems(promote: Promote) -> list[str]:
    """Say what makes a desired state impossible to serve; nothing when it can be served.

    >>> problems(Promote(endpoint="e", model="m", revision=1, deployments=[], at_ms=0))
    ['no deployment takes primary traffic']
    """
    found = []
    names = [one.deployment for one in promote.deployments]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        found.append(f"deployments must have names of their own, twice: {', '.join(twice)}")
    primaries = [one for one in promote.deployments if one.role == "primary"]
    total = sum(one.weight for one in primaries)
    if not primaries:
        found.append("no deployment takes primary traffic")
    elif abs(total - 1) > _TOLERANCE:
        found.append(f"the weights of primary deployments must sum to 1, not {total:g}")
    return found


class Router:
    """Points of [0, 1) to the places of primary deployments in the list that it was made of. Immutable.

    The champion is the one with that arm, else the first listed; the others come before it in the order given.

    >>> old = Deployment(deployment="v1", version="1", weight=0.95, arm="champion")
    >>> new = Deployment(deployment="v2", version="2", weight=0.05, arm="challenger")
    >>> Router([old, new], salt="r1").route("anna")
    0
    """

    def __init__(self, deployments: Iterable[Deployment], salt: str) -> None:
        primaries = [(place, one) for place, one in enumerate(deployments) if one.role == "primary"]
        champion = next((place for place, one in primaries if one.arm == CHAMPION), primaries[0][0])
        self._salt = salt
        self._rest = champion
        self._bounds: list[tuple[float, int]] = []
        upper = 0.0
        for place, one in primaries:
            if place != champion and one.weight > 0:
                upper += one.weight
                self._bounds.append((upper, place))
        if self._bounds and next(one.weight for place, one in primaries if place == champion) == 0:
            self._rest = self._bounds[-1][1]  # rounding leaves nothing to a champion without weight

    def route(self, unit: str) -> int:
        """Give the place of the deployment that answers this subject (or request)."""
        if not self._bounds:
            return self._rest
        at = point(self._salt, unit)
        for upper, place in self._bounds:
            if at < upper:
                return place
        return self._rest
