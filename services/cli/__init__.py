"""The command line. `weir --help` imports nothing heavy; each command imports what it needs when it runs.

Exit codes: 0 done, 1 it did not work, 2 you asked for something else, 3 the surroundings are missing.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line. Errors meant for people are printed without a traceback."""
    from services.cli.app import app

    try:
        app(prog_name="weir")
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from schemas.errors import WeirError

        if not isinstance(error, WeirError):
            raise
        print(f"weir: {error}", file=sys.stderr)
        sys.exit(error.code)


if __name__ == "__main__":
    main()
