"""The one error that people are meant to read: what happened, and what to do next."""

from __future__ import annotations

OK, FAILURE, USAGE, ENVIRONMENT = 0, 1, 2, 3
"""Exit codes of every command: done; it did not work; you asked for something else; the surroundings are missing."""


class WeirError(Exception):
    """Says what was expected and what came (`message`) and how to fix it (`fix`); ends a command with `code`."""

    def __init__(self, message: str, *, fix: str = "", code: int = FAILURE) -> None:
        super().__init__(f"{message}\n  fix: {fix}" if fix else message)
        self.message, self.fix, self.code = message, fix, code
