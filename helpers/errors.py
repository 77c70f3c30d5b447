"""Errors that say what was wrong, what was expected, and what to do next."""

import difflib
from collections.abc import Collection, Iterable


class HelpfulError(Exception):
    """Base of every error this package raises on purpose; its text tells the user what to do."""


class UnknownName(HelpfulError, KeyError):
    """A task, language, encoder, mode or profile that does not exist."""

    def __str__(self) -> str:
        return str(self.args[0])  # without the quotes that KeyError adds


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


def unknown(kind: str, name: str, valid: Iterable[str], meant: str = "") -> UnknownName:
    """Return the error for a name that is not valid; it says what was meant, or lists the nearest."""
    names = sorted(set(valid))
    near = [meant] if meant in names else difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
    return UnknownName(f"unknown {kind} {name!r}.{hint} Valid: {', '.join(names) or '(none)'}.")


def refusal(error: Exception, name: str, revision: str, page: str) -> str:
    """Say why the hub does not serve a repository, from what its client raised, and what helps."""
    reply = getattr(error, "response", None)
    if reply is None:
        return f"cannot reach {name} on the hub ({type(error).__name__}: {str(error)[:200]})"
    code, kind = reply.status_code, reply.headers.get("X-Error-Code", "")
    login = "log in with `hf auth login`"
    terms = f"refuses {name} ({code}): accept its terms at {page} and {login}"
    private = f"has no {name} for you ({code}): its name is wrong, or it is private: {login}"
    said: dict[str | int, str] = {"GatedRepo": terms, 403: terms, 401: private, 404: private}
    said |= {"RevisionNotFound": f"has no revision {revision} of {name} (any more)"}
    said |= {429: f"asks to wait before it serves {name} (429, too many requests)"}
    broken = f"is out of order ({code}) and does not serve {name}; try later"
    return f"the hub {said.get(kind) or said.get(code, broken)}"


def known(kind: str, name: str, valid: Collection[str]) -> str:
    """Return a name that is valid, or raise ``unknown``."""
    if name not in valid:
        raise unknown(kind, name, valid)
    return name
