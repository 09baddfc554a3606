"""Detectors: from closed panes, in order, to "this is no longer the reference", within a budget of false alarms.

**The null.** A `Null` is a list of witnesses, each a set of cells S with a bound m: "the probability of S is at most
m". For the error rate there is one witness; for a histogram there are the lower and upper sets of its order and each
cell by itself, so that the null says: no share of these lies more than ε above the reference's (`nulls` makes the
bounds; the reference's own uncertainty is in them).

**The evidence.** A unit is a thing whose outcome is not tied to the others' within the pane. With X in [0, 1] the
share of a unit's events in S, and E[X | the past] ≤ m, the factor 1 + λ(X − m) has mean ≤ 1 for every λ in [0, 1/m)
that is fixed before X is seen; factors multiply over units. A pane's evidence L is that product. Three kinds of unit:

- `subject` (default): the 64 subject-hash buckets, each subject whole in one. The factor is linear in the bucket's
  count, 1 + λ_j(s_j − m·n_j) with λ_j = min(λ, 0.95/(m·n_j)), so any dependence *within* a bucket is allowed. Where
  only the pane's total s is known (histograms), the chord of the concave logarithm bounds the product from below: with
  k buckets, the largest of r rows, and s' = s/r + m(k − n/r), L = (1+λ(1−m))^s' · (1−λm)^(k−s'). It is exact for k
  buckets of equal size that are each wholly in or out of S, and costs evidence elsewhere.
- `event`: every row is a unit, L = (1+λ(1−m))^s (1−λm)^(n−s): for streams whose rows are independent given the past.
- `pane`: the pane is one unit, L = 1 + λ(s/n − m): any dependence within the pane is allowed.

**The alarm** (e-SR, Shin, Ramdas and Rinaldo 2024). For each witness and bet, M ← (M + w)·L; when the mean over all of
them reaches A there is an alarm, and all M start again at 0. w is the pane's weight in days, fixed before the pane's
outcomes are seen. M + A·N − Σw is a supermartingale, N the number of alarms, hence **E[N] ≤ Σw / A**, under any
dependence between streams, and expectations add over streams: one budget of expected false alarms is split by
splitting w.

**What is proved and what is not.** Proved: E[N] ≤ Σw/A on streams where in every pane each unit's expectation given the
earlier panes and the other units is at most m. Not proved, and in general false: autocorrelated or seasonal streams
whose conditional mean exceeds m at times (a subject with a bad day over many panes is that too); labels whose coming
depends on the outcome. Sizes of units are taken as given (exposure), so traffic that depends on coming errors is
outside too. For streams that follow the clock `streams.judge.season` gives each hour a bound of its own, and says what
it assumes. The mean M is no e-value at a fixed time (its mean grows with Σw); lists of alarms are rankings and
control no FDR.

River's detectors (`river`) and the classical charts (`charts`) fit the same contract, keep no budget, say so in their
verdicts and are not switched on by default. `streams.judge.esr` reckons the e-SR for many streams at once.

A new detector is a subclass of `Detector` with a `kind` in one file of this folder; it is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil

from streams.judge.detectors.base import Detector
from streams.judge.detectors.e_sr import ESR
from streams.judge.detectors.river import ADWIN, PageHinkley

__all__ = ["ADWIN", "ESR", "Detector", "PageHinkley"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
