"""`weir drift --classifier`: can a classifier tell which table a row comes from? It sees all columns at once.

Gradient-boosted trees (scikit-learn's histogram ones) on at most `ROWS` rows a table, chosen by a seed, in `FOLDS`
folds; missing values are a branch of their own. `streams/judge/separation.py` says what the AUC means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.errors import USAGE, WeirError
from services.drift.column import numbers, texts, vectors
from services.drift.table import Table
from streams.judge.compare import Compared, Floats
from streams.judge.separation import Fold, Separated, fold_of, separated

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

ROWS = 10_000
FOLDS = 5
LEAST_ROWS = 50
SEED = 0
KNOWN = 100
"""So many texts of a column, the most frequent of both samples, are categories of their own."""
BATCH = 8_192


def tell_apart(
    before: Table,
    after: Table,
    columns: Sequence[Compared],
    parts: Mapping[str, Sequence[str]],
    *,
    alpha: float,
    least: float,
    rows: int = ROWS,
    seed: int = SEED,
) -> Separated:
    """Train on the columns that were compared. Raises `WeirError` without scikit-learn, or with no column."""
    try:
        from sklearn.model_selection import StratifiedKFold
        from threadpoolctl import threadpool_limits
    except ImportError:
        raise WeirError(
            "--classifier needs scikit-learn, which is not installed", fix="pip install 'weir[classifier]'", code=USAGE
        ) from None
    if not columns:
        raise WeirError("--classifier: no column was compared", fix="leave --classifier out", code=USAGE)
    draw = np.random.default_rng(seed)
    sides = [_sample(table, columns, parts, rows, draw) for table in (before, after)]
    n, m = (len(side) for side in sides)
    if min(n, m) < LEAST_ROWS:
        few = f"too few rows: {min(n, m)}, where a classifier needs {LEAST_ROWS} of each table"
        return Separated(n=n, m=m, folds=0, sentence=few)
    x, groups, categorical = _matrix(sides, columns, parts)
    y = np.repeat([0, 1], [n, m])
    folds: list[Fold] = []
    lost = dict.fromkeys(groups, 0.0)
    for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, y):
        x[:, np.isnan(x[train]).all(axis=0)] = 0.0  # scikit-learn makes no bins of nothing
        # Thousands of rows gain little by OpenMP's threads, and where others are busy these spin while they wait.
        with threadpool_limits(1):
            model = _model(categorical, seed).fit(x[train], y[train])
            folds.append(_fold(model, x[test], y[test]))
            for name, place in groups.items():
                shuffled = x[test].copy()
                shuffled[:, place] = shuffled[draw.permutation(len(test))][:, place]
                lost[name] += (folds[-1].auc - _fold(model, shuffled, y[test]).auc) / FOLDS
    found = separated(folds, n, m, alpha=alpha, least=least)
    ranked = sorted(lost.items(), key=lambda item: (-item[1], item[0]))
    found.telling = [(name, much) for name, much in ranked if much > 0]
    return found


def _model(categorical: Sequence[int], seed: int) -> HistGradientBoostingClassifier:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=60, max_leaf_nodes=15, min_samples_leaf=20, l2_regularization=1.0, early_stopping=False,
        categorical_features=list(categorical) or None, random_state=seed,
    )  # fmt: skip


def _fold(model: HistGradientBoostingClassifier, x: Floats, y: NDArray[np.int64]) -> Fold:
    scores = model.decision_function(x)
    return fold_of(scores[y == 0], scores[y == 1])


def _sample(
    table: Table, columns: Sequence[Compared], parts: Mapping[str, Sequence[str]], rows: int, draw: np.random.Generator
) -> pa.Table:
    """Take rows by chance, in their order."""
    names = [name for one in columns for name in parts.get(one.name, [one.name])]
    chosen = np.sort(draw.choice(table.rows, min(rows, table.rows), replace=False, shuffle=False))
    return pa.Table.from_batches(_taken(table, names, chosen), pa.schema([table.schema.field(name) for name in names]))


def _taken(table: Table, names: Sequence[str], chosen: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in table.batches(names, BATCH):
        low, high = np.searchsorted(chosen, [start, start + batch.num_rows])
        if high > low:
            yield batch.take(pa.array(chosen[low:high] - start))
        start += batch.num_rows


def _matrix(
    sides: Sequence[pa.Table], columns: Sequence[Compared], parts: Mapping[str, Sequence[str]]
) -> tuple[Floats, dict[str, slice], list[int]]:
    """Give the rows as numbers, NaN for what is missing; which of them a column has; and which are categories."""
    found: list[Floats] = []
    groups: dict[str, slice] = {}
    categorical: list[int] = []
    wide = 0
    for one in columns:
        if one.kind == "categorical":
            categorical.append(wide)
            block = _codes([text for side in sides for text in texts(side.column(one.name))])[:, None]
        elif one.kind == "embedding":
            block = np.concatenate([_coordinates(side, parts.get(one.name), one) for side in sides])
        else:
            block = np.concatenate([numbers(side.column(one.name)) for side in sides])[:, None]
        groups[one.name] = slice(wide, wide + block.shape[1])
        wide += block.shape[1]
        found.append(block)
    x = np.concatenate(found, axis=1)
    beyond = np.isinf(x)
    x[beyond] = np.sign(x[beyond]) * np.finfo(np.float64).max
    return x, groups, categorical


def _coordinates(side: pa.Table, of: Sequence[str] | None, one: Compared) -> Floats:
    """Give an embedding's numbers; a row without a vector of its dimension is missing in all."""
    if of is not None:
        return np.stack([numbers(side.column(name)) for name in of], axis=1)
    d = one.dimension or 1
    full = np.full((side.num_rows, d), np.nan)
    held = vectors(side.column(one.name).combine_chunks())
    full[held.lengths == d] = held.of(d)
    return full


def _codes(column: Sequence[str | None]) -> Floats:
    """Give each text's place among the most frequent ones, `KNOWN` for the others, NaN for missing."""
    often = Counter(text for text in column if text is not None)
    ranked = sorted(often, key=lambda text: (-often[text], text))
    place = {text: float(min(k, KNOWN)) for k, text in enumerate(ranked)}
    return np.array([np.nan if text is None else place[text] for text in column])
