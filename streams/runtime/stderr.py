"""Standard error for logs: a line that cannot be written must not end the process that works."""

from __future__ import annotations

import contextlib
import io
import sys


class LossyStderr(io.TextIOBase):
    """Writes to standard error; what it does not take (a full disk, a reader that went away) is lost."""

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        with contextlib.suppress(OSError):
            sys.stderr.flush()
