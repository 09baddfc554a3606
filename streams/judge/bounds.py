"""What a judge is told: the sizes of panes and windows, the budget of false alarms, the tolerance."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator

from streams.judge.detectors import ESR, Detector
from streams.judge.season import zone_of

DAY_MS = 86_400_000


class JudgeBounds(BaseModel):
    """Bounds of one judge.

    - `window_panes`: how many closed panes make the rolling window (a pane's length is the namespace's).
    - `budget`: expected false alarms in `period_ms`, over all models of the namespace and their streams together. The
      promise is `detectors`' and `shares`'; it holds where each stream's conditional mean stays within `epsilon` of the
      reference's.
    - `weights`: how the budget is divided between models, relative to 1 where a model is not named. A model of weight 0
      (one that is gone) is not watched and takes nothing.
    - `reference_share`: the part of the budget spent on references being unlucky: with at least the probability
      1 − `reference_share`·`budget` all rates of all references lie within their radius, and then E[false alarms] ≤ the
      rest of it.
    - `epsilon_error`, `epsilon_share`: how much worse the error rate, and how different the share of a set of cells,
      may be before it counts.
    - `quality_share`, `score_share`: how the budget is divided; the features share the rest equally.
    - `cells`: into how many cells of about equal reference weight a histogram is grouped before it is judged.
    - `grace_ms`: how long after its end a feature or score pane waits for predictions still on their way.
    - `live_ms`: how often figures of open panes, and corrections, leave at most (clock).
    - `keep_panes`: how many closed panes a model keeps at most for corrections.
    - `distances`: whether `drift` events carry PSI, KS and the others of the rolling window.
    - `trial_window_ms`: how long after its first appearance a subject's trials count.
    - `surge_budget`, `surge_factor`, `surge_warm_up_ms`: expected false alarms in 30 days about jumps of a model's
      traffic, how many times the usual a jump has at least, and how long a stream is learnt before (`surge`).
    - `season`: `hour_of_week` compares error rate and score with the same hour of earlier weeks (`season`), by the wall
      clock of `time_zone` (an IANA name), for some models of `time_zones` (by model); `none` with one reference.
    - `reviews`, `review_panes`, `review_subjects`: how many decisions a model remembers to see whether a correction
      moves their ground, of how many of the last panes of an alarm's evidence, and of how many of the last closed
      subjects of a rollout's layer (`reviews`; 0 decisions: none). `review_ms`: how often one is told of at most while
      the answer stays.
    - `settle_ms`: how much longer than the labels' deadline a subject stays open, for trials still on their way.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    window_panes: int = Field(default=60, gt=0)
    budget: float = Field(default=0.05, gt=0)
    period_ms: int = Field(default=30 * DAY_MS, gt=0)
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    reference_share: float = Field(default=0.2, gt=0, lt=1)
    epsilon_error: float = Field(default=0.01, ge=0, lt=1)
    epsilon_share: float = Field(default=0.05, ge=0, lt=1)
    quality_share: float = Field(default=0.5, ge=0, le=1)
    score_share: float = Field(default=0.25, ge=0, le=1)
    distances: bool = True
    detectors: tuple[SerializeAsAny[Detector], ...] = (ESR(),)
    cells: int = Field(default=16, ge=2)
    grace_ms: int = Field(default=10_000, ge=0)
    live_ms: int = Field(default=5_000, gt=0)
    keep_panes: int = Field(default=4_000, ge=1)
    trial_window_ms: int = Field(default=DAY_MS, gt=0)
    settle_ms: int = Field(default=60_000, ge=0)
    reviews: int = Field(default=32, ge=0)
    review_panes: int = Field(default=240, ge=1)
    review_subjects: int = Field(default=5_000, ge=0)
    review_ms: int = Field(default=3_600_000, ge=0)
    surge_budget: float = Field(default=0.05, gt=0)
    surge_factor: float = Field(default=3.0, ge=1)
    surge_warm_up_ms: int = Field(default=7 * DAY_MS, gt=0)
    season: Literal["none", "hour_of_week"] = "none"
    time_zone: str = "UTC"
    time_zones: dict[str, str] = Field(default_factory=dict)

    @field_validator("detectors", mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        if isinstance(value, (list, tuple)):
            return tuple(Detector.parse(item) if isinstance(item, dict) else item for item in value)
        return value

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        zone_of(value)
        return value

    @field_validator("time_zones")
    @classmethod
    def _zones(cls, value: dict[str, str]) -> dict[str, str]:
        for model, name in value.items():
            try:
                zone_of(name)
            except ValueError as error:
                raise ValueError(f"model {model!r}: {error}") from None
        return value

    def zone(self, model: str) -> str:
        """Give the time zone of a model."""
        return self.time_zones.get(model, self.time_zone)

    @property
    def alarm_days(self) -> float:
        """The bound A of the e-SR, in days: with weights in days, E[alarms in T days] ≤ T / A."""
        return self.period_ms / DAY_MS / (self.budget * (1 - self.reference_share))

    @property
    def parts(self) -> int:
        """How many detectors share a stream's budget."""
        return max(sum(detector.budgeted for detector in self.detectors), 1)

    @property
    def reference_delta(self) -> float:
        """The probability with which any reference's rates may lie outside their radius (at most 5 %)."""
        return min(self.budget * self.reference_share, 0.05)
