"""Every error this package raises on purpose.

The tree::

    RaytuneHpoError
    ├── SpecError (also ValueError)      the experiment file or the arguments are wrong
    │   ├── SpaceError                   a search space that cannot be searched
    │   └── ExpressionError              an objective or constraint that cannot be read
    ├── PluginError                      a searcher, scheduler or launcher that cannot be loaded
    ├── SearcherError                    a searcher that failed while it searched
    ├── RunError                         the run directory cannot be used
    │   ├── RunExistsError               there is a journal already
    │   ├── RunLockedError               another driver holds the run
    │   └── JournalError                 the journal is damaged
    └── InfrastructureError              Ray could not start, or no node can meet a request
        └── StoreError                   an object store that cannot be reached or refuses
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class RaytuneHpoError(Exception):
    """Root of all errors of this package."""


@dataclass(frozen=True)
class Problem:
    """One mistake in an experiment file.

    Attributes:
        path: Dotted path of the field, such as ``parameters.lr.min``; empty for the whole file.
        message: What is wrong, what was seen and what is right, in one sentence.
        line: Line in the file, from 1; 0 when there is no file.
        column: Column in the line, from 1; 0 when there is no file.
        snippet: The source line, without its newline; empty when there is no file.
    """

    path: str
    message: str
    line: int = 0
    column: int = 0
    snippet: str = ""


class SpecError(RaytuneHpoError, ValueError):
    """The experiment is wrong; carries every problem found, in file order.

    Attributes:
        problems: The mistakes, at least one.
        source: File name shown before each line number; empty when the input was Python.
    """

    def __init__(self, problems: Sequence[Problem] | str, source: str = "") -> None:
        if isinstance(problems, str):
            problems = [Problem(path="", message=problems)]
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.source = source
        super().__init__(self.text())

    def text(self) -> str:
        """Return all problems as ``file:line:column: path: message`` with line and caret."""
        return "\n".join(self._one(problem) for problem in self.problems)

    def _one(self, problem: Problem) -> str:
        place = f"{self.source}:{problem.line}:{problem.column}: " if problem.line else ""
        head = f"{place}{problem.path + ': ' if problem.path else ''}{problem.message}"
        if not problem.snippet:
            return head
        return f"{head}\n    {problem.snippet}\n    {' ' * (problem.column - 1)}^"


class SpaceError(SpecError):
    """A search space that cannot be searched."""


class ExpressionError(SpecError):
    """An expression that cannot be read; ``problems[0].column`` counts within the expression."""


class PluginError(RaytuneHpoError):
    """A searcher, scheduler or launcher that is unknown or cannot be loaded."""


class SearcherError(RaytuneHpoError):
    """A searcher that failed while it searched; its own error is the cause."""


class RunError(RaytuneHpoError):
    """A run directory that cannot be used as asked."""


class RunExistsError(RunError):
    """The run has a journal already; resume it or choose another name."""


class RunLockedError(RunError):
    """Another driver holds the run."""


class JournalError(RunError):
    """The journal is damaged in a way that cannot be repaired without loss."""


class InfrastructureError(RaytuneHpoError):
    """Ray could not start, or no node can ever meet what a trial asks for."""


class StoreError(InfrastructureError):
    """An object store that does not answer or refuses; what it has taken is safe."""


def did_you_mean(seen: str, valid: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest of ``valid``, or an empty text."""
    near = get_close_matches(seen, list(valid), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""
