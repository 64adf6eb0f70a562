"""What a check finds: problems with their places, and tables of what the data are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

MOST_ALIKE = 20  # problems of one sort that are listed one by one; the rest is counted


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: an error would spoil training, a warning should be known."""

    severity: Literal["error", "warning"]
    file: str
    message: str
    row: int | None = None
    column: str | None = None

    def __str__(self) -> str:
        if self.message.startswith(self.file):
            return self.message
        places = [self.file, self.row and f"row {self.row}", self.column and f"column {self.column!r}"]
        return f"{', '.join(filter(None, places))}: {self.message}"


@dataclass(frozen=True)
class Findings:
    """Problems, and tables (title, header, rows) of plain text."""

    problems: list[Problem] = field(default_factory=list)
    tables: list[tuple[str, list[str], list[list[str]]]] = field(default_factory=list)

    @property
    def spoils_training(self) -> bool:
        return any(problem.severity == "error" for problem in self.problems)

    def report(self, problems: Sequence[Problem]) -> None:
        """Adds problems of one sort; of very many the first ones and their number."""
        self.problems.extend(problems[:MOST_ALIKE])
        if len(problems) > MOST_ALIKE:
            worst = "error" if any(problem.severity == "error" for problem in problems) else "warning"
            message = f"{len(problems) - MOST_ALIKE} more like this: {problems[MOST_ALIKE].message}"
            self.problems.append(Problem(worst, problems[MOST_ALIKE].file, message))

    def to_json(self) -> dict[str, Any]:
        tables = [{"title": title, "header": header, "rows": rows} for title, header, rows in self.tables]
        problems = [asdict(problem) for problem in self.problems]
        return {"spoils_training": self.spoils_training, "problems": problems, "tables": tables}
