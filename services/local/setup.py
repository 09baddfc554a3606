"""`python -m services.local.setup`: make the embedded Kafka ready to start offline. Idempotent, quick when done."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from services.local.jars import JarsUnavailable, ensure_jars, relock


class _Progress:
    """Lines like `  3/46 jars` overwrite each other on a terminal; elsewhere only the last shows."""

    def __init__(self) -> None:
        self._pending = ""

    def __call__(self, text: str) -> None:
        if re.match(r"  \d+/\d+ ", text):
            if sys.stdout.isatty():
                print(f"\r\x1b[2K{text}", end="", flush=True)
            self._pending = text
        else:
            self.finish()
            print(text, flush=True)

    def finish(self) -> None:
        if self._pending:
            print("" if sys.stdout.isatty() else self._pending, flush=True)
            self._pending = ""


def main(arguments: list[str] | None = None) -> int:
    """Fetch and verify the jars, prepare the start cache. Exit status 1, with the remedy, when a jar cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m services.local.setup", description=__doc__)
    parser.add_argument("--cache", type=Path, help="where downloads are kept (default: WEIR_CACHE_DIR, or the user's)")
    parser.add_argument("--no-start-cache", action="store_true", help="fetch the jars only")
    parser.add_argument("--relock", action="store_true", help="resolve the Kafka version anew and rewrite the lock")
    asked = parser.parse_args(arguments)
    say = _Progress()
    try:
        if asked.relock:
            relock(say=say)
            return 0
        jars = ensure_jars(asked.cache, verify=True, say=say)
        say.finish()
        if not asked.no_start_cache:
            from services.local.aot import train

            train(jars, say)
    except JarsUnavailable as error:
        say.finish()
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Apache Kafka: ready, {len(jars)} jars in {jars[0].parent}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
