"""The one exception for a user's mistake, and the sentences that go with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(Exception):
    """A mistake in what the user gave (study, table, config, file, run folder).

    The message is a single sentence or two that names the file, the row, the column and the fix. The command
    line prints it as it is and exits with code 2; nothing else in the package turns into that.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Advice on a misspelt `name`: the nearest of the `known` names, then all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) or '(none)'}"


def unknown(what: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a `name` that is in no table, e.g. unknown("backbone", "restnet", BACKBONES)."""
    return UserError(f"unknown {what} {name!r}: {nearest(name, known)}")


def from_validation(error: ValidationError, source: str, keys: Iterable[str] = ()) -> UserError:
    """The first complaint of a pydantic `error` about file `source`, with the dotted path as the user wrote it.

    `keys` are the names accepted anywhere in the file; a forbidden extra key is answered with the nearest one.
    """
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return UserError(f"{source}: unknown key '{path}': {nearest(str(first['loc'][-1]), keys)}")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("missing", "value_error"):
        return UserError(f"{source}: {path + ': ' if path else ''}{message}")
    return UserError(f"{source}: {path} = {first['input']!r}: {message}")
