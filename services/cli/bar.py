"""A progress bar on standard error, where somebody looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bar:
    """One task at a time: what is being done, and how much of it."""

    def __init__(self, shown: Progress, task: TaskID) -> None:
        self._shown, self._task = shown, task

    def say(self, text: str) -> None:
        """Begin something else."""
        self._shown.reset(self._task, description=text)

    def advance(self, count: int) -> None:
        """Tell that so many more are done."""
        self._shown.advance(self._task, count)

    def teller(self, text: str) -> Callable[[int, int], None]:
        """Give the function that is told how many are done, and of how many."""

        def tell(done: int, total: int) -> None:
            self._shown.update(self._task, description=text, completed=done, total=total)

        return tell


@contextmanager
def bar() -> Iterator[Bar]:
    """Show a bar until the end; nothing where there is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        yield Bar(shown, shown.add_task("opening", total=None))
