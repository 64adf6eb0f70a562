"""The files of a comparison: comparison.json, table.csv, table.tex, comparison.html."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from m4oe.artifact import write_text
from m4oe.compare.page import render
from m4oe.compare.reading import mark
from m4oe.report.words import MINUS, measure, number
from m4oe.runs.tables import write_csv

COSTS = ("parameters", "active_parameters", "flops", "seconds_an_epoch", "epochs", "peak_memory")
COLUMNS = (
    "variant", "group", "task", "metric", "value", "low", "high", "n", "seeds", "mark",
    "difference", "difference_low", "difference_high", "p", "p_holm", "p_delong",
    "pair", "pair_difference", "pair_low", "pair_high", "pair_p_holm", *COSTS, "failed",
)  # fmt: skip
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", MINUS: "$-$"}
_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def write_results(content: Mapping[str, Any], out: Path) -> None:
    """Each file is written whole or not at all."""
    write_text(out / "comparison.json", json.dumps(content, indent=1, allow_nan=False))
    write_csv(pd.DataFrame(list(rows(content)), columns=list(COLUMNS)), out / "table.csv")
    write_text(out / "table.tex", latex(content))
    write_text(out / "comparison.html", render(content))


def rows(content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """table.csv: a row for each variant, task and metric; what is compared stands with the primary metric."""
    for name, row in content["variants"].items():
        about = {"variant": name, "group": row["group"], "failed": row["failed"], **row["cost"]}
        if not row["scores"]:
            yield about
        for task, estimates in row["scores"].items():
            for metric, one in estimates.items():
                primary = metric == content["tasks"][task]["metric"]
                compared = _compared(row["differences"].get(task)) | {"mark": mark(content, name, task)}
                compared |= _paired(row["pair"], content["pairs"].get(name, {}).get(task))
                facts = {key: one[key] for key in ("value", "low", "high", "n")} | {"seeds": len(one["seeds"])}
                yield {**about, "task": task, "metric": metric, **facts, **(compared if primary else {})}


def _compared(one: Mapping[str, Any] | None) -> dict[str, Any]:
    if one is None:
        return {}
    ends = {"difference": one["value"], "difference_low": one["low"], "difference_high": one["high"]}
    return ends | {key: one[key] for key in ("p", "p_holm", "p_delong")}


def _paired(pair: str, one: Mapping[str, Any] | None) -> dict[str, Any]:
    if one is None:
        return {}
    ends = {"pair_difference": one["value"], "pair_low": one["low"], "pair_high": one["high"]}
    return {"pair": pair, **ends, "pair_p_holm": one["p_holm"]}


def latex(content: Mapping[str, Any]) -> str:
    """The table of primary metrics for a paper, with booktabs: best in bold, tied for best underlined."""
    tasks = list(content["tasks"])
    heads = [f"{_tex(task)} ({_tex(measure(content['tasks'][task]['metric']).name)})" for task in tasks]
    lines = [r"% \usepackage{booktabs}", r"\begin{tabular}{l" + "c" * len(tasks) + "rr}", r"\toprule"]
    lines += [" & ".join(["", *heads, "Parameters", "s/epoch"]) + r" \\", r"\midrule"]
    for name, row in content["variants"].items():
        cells = [_cell(content, name, task) for task in tasks]
        count, seconds = row["cost"].get("parameters"), row["cost"].get("seconds_an_epoch")
        lines.append(" & ".join([_tex(row["title"]), *cells, number(count, 0), number(seconds, 1)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""]).replace("\N{EN DASH}", "--")


def _cell(content: Mapping[str, Any], name: str, task: str) -> str:
    row = content["variants"][name]
    one = row["scores"].get(task, {}).get(content["tasks"][task]["metric"])
    if one is None:
        return "failed" if row["failed"] else "--"
    value = {"best": r"\textbf{%s}", "tied": r"\underline{%s}", "": "%s"}[mark(content, name, task)]
    ends = "" if one["low"] is None else f" [{number(one['low'], 3)}, {number(one['high'], 3)}]"
    return (value % number(one["value"], 3) + ends).replace(MINUS, "$-$")


def _tex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)
