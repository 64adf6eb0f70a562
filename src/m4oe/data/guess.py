"""A guess at a study: its entries with their reasons, how it is written, and what names suggest."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from m4oe.errors import UserError

# What a name may say of a picture's physics, the first that matches.
KINDS: Mapping[str, str] = {
    "mammogram": r"mammo|mdb\d|mlo|ffdm|dbt|(^|[\W_])cc($|[\W_])",
    "oct": r"(^|[\W_])oct($|[\W_])|bscan",
    "photo": r"fundus|photo|cfp|retina|derm|endoscop|colonoscop",
    "ultrasound": r"ultrasound|sono|(^|[\W_])us($|[\W_])|echo",
    "pathology": r"patholog|histo|wsi|stain|biops|h&e",
    "xray": r"x-?ray|radiograph|chest|cxr|(^|[\W_])(cr|dx)($|[\W_])",
    "mr": r"(^|[\W_])(mri?|t1\w*|t2\w*|flair|dwi|adc|pd|swi)($|[\W_])|mri|hippocamp|cardiac_mr|prostate",
    "ct": r"(^|[\W_])ct(a|p)?($|[\W_\d])|lung|liver",
}


@dataclass
class Guess:
    """A study as guessed so far. Entries are values of the study file, `why` their comments by dotted path."""

    name: str
    table: str
    head: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, Any] = field(default_factory=dict)
    tail: dict[str, Any] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    def add(self, part: str, name: str, value: Any, why: str) -> None:
        """An entry of `head`, `inputs`, `tasks` or `tail`, with its reason, which also becomes a note."""
        getattr(self, part)[name] = value
        self.why[f"{part}.{name}"] = why
        self.notes.append(f"{name}: {why}")


def render(guess: Guess) -> str:
    """The study file: one entry a line, the reason behind it."""
    lines = ["# Drafted by 'm4oe init'. Read it, correct it, then run 'm4oe check' on it."]
    lines += [_line("name", guess.name, ""), _line("table", guess.table, "")]
    lines += [_line(key, value, guess.why.get(f"head.{key}", "")) for key, value in guess.head.items()]
    for part in ("inputs", "tasks"):
        lines.append(f"{part}:")
        entries = getattr(guess, part).items()
        lines += ["  " + _line(name, value, guess.why.get(f"{part}.{name}", "")) for name, value in entries]
    lines += [_line(key, value, guess.why.get(f"tail.{key}", "")) for key, value in guess.tail.items()]
    return "\n".join([*lines, *(f"# {hint}" for hint in guess.hints)]) + "\n"


def _line(key: str, value: Any, why: str) -> str:
    return f"{_flow(key)}: {_flow(value)}{'  # ' + why if why else ''}"


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").replace("'on':", "on:")


def safe_name(text: str) -> str:
    """`text` as a name of an input, task or study: letters, digits, underscore and hyphen."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-").lower() or "unnamed"


def kind_of(*texts: str) -> str:
    """The physics that names suggest, the first text that says something; `other` where none does."""
    for text in texts:
        for kind, pattern in KINDS.items():
            if re.search(pattern, text, re.IGNORECASE):
                return kind
    return "other"


def mask_values(path: Path) -> list[int] | None:
    """The different values of the mask `path`, or None where its pixels are not whole numbers from 0 to 255."""
    from m4oe.data.readers import read_mask  # readers load the libraries of their formats

    try:
        return np.unique(read_mask(str(path), range(256))).tolist()
    except UserError:
        return None
