"""Errors that say what was wrong, what was expected, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HelpfulError(Exception):
    """Base of every error this package raises on purpose; its text tells the user what to do."""


class UnknownName(HelpfulError, KeyError):
    """A task, language, encoder, mode or profile that does not exist."""

    def __str__(self) -> str:
        """Return the message without the quotes that KeyError adds."""
        return str(self.args[0])


class MissingData(HelpfulError, FileNotFoundError):
    """Data or a package that a task or an encoder needs is not there."""


class BadRows(HelpfulError, ValueError):
    """Rows that do not fit the facts of their task: a column, a label, an empty set."""


class BadEncoder(HelpfulError, ValueError):
    """An encoder file that is truncated, altered, or not an encoder."""


class BadRecord(HelpfulError, ValueError):
    """A stored record or checkpoint that fails its checksum or cannot be read."""


class BadPlan(HelpfulError, ValueError):
    """A plan that could not run to its end: data, an encoder, or an engine is not there."""


class StoreFull(HelpfulError, OSError):
    """The disk that holds the store has no room left; nothing that was finished is lost."""


class BadFit(HelpfulError, ValueError):
    """A statistical model that must not be reported: too little data, or no optimum."""


def unknown(kind: str, name: str, valid: Iterable[str]) -> UnknownName:
    """Return the error for a name of some kind that is not valid; it lists the nearest first."""
    names = sorted(set(valid))
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
    return UnknownName(f"unknown {kind} {name!r}.{hint} Valid: {', '.join(names) or '(none)'}.")


def refusal(error: Exception, name: str, revision: str, page: str) -> str:
    """Say why the hub does not serve a repository, from what its client raised, and what helps."""
    reply = getattr(error, "response", None)
    if reply is None:
        return f"cannot reach {name} on the hub ({type(error).__name__}: {str(error)[:200]})"
    code, kind = reply.status_code, reply.headers.get("X-Error-Code", "")
    if kind == "RevisionNotFound":
        return f"the hub's {name} has no revision {revision} (any more)"
    if kind == "GatedRepo" or code == 403:
        terms = f"accept its terms at {page} and log in with `hf auth login`"
        return f"the hub refuses {name} ({code}): {terms}"
    if code in (401, 404):
        private = "its name is wrong, or it is private and needs `hf auth login`"
        return f"the hub has no {name} for you ({code}): {private}"
    if code == 429:
        return f"the hub asks to wait before it serves {name} (429, too many requests)"
    return f"the hub is out of order ({code}) and does not serve {name}; try later"
