"""`python -m streams.join.columns`: compile the join, so that the first `weir join` need not."""

from __future__ import annotations

from streams.join.columns.warm import warm

if __name__ == "__main__":
    print(f"the join is compiled ({warm():.0f} s)")
