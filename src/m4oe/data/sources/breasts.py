"""What the mammography releases share: an exam is one breast, an input is one kind of picture in one view.

Images are a frame with a row for each file: exam, patient, side (L or R), kind, view, path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

INPUTS = {  # (kind, view) -> input
    ("ffdm", "CC"): "ffdm_cc",
    ("ffdm", "MLO"): "ffdm_mlo",
    ("synthetic2d", "CC"): "syn_cc",
    ("synthetic2d", "MLO"): "syn_mlo",
}
DENSITY = {"kind": "ordinal", "column": "density", "classes": ["A", "B", "C", "D"]}


def one_row_a_breast(images: pd.DataFrame, kinds: tuple[str, ...]) -> tuple[pd.DataFrame, dict[str, int]]:
    """A table with a row for each breast (exam, patient, side, a column for each input), and what was left out of it.

    Of several pictures of one kind and view, the last in the order of `images` is taken: a view is repeated because
    the first did not do.
    """
    sided = images["side"].isin(["L", "R"])
    viewed = images["view"].isin(["CC", "MLO"])
    known = images["kind"].isin(kinds)
    used = images[sided & viewed & known]
    used = used.assign(input=[INPUTS[pair] for pair in zip(used["kind"], used["view"])])
    single = used.drop_duplicates(["exam", "input"], keep="last")
    left_out = {
        "images of another type": int((~known).sum()),
        "images of no known side": int((known & ~sided).sum()),
        "images of views other than CC and MLO": int((known & sided & ~viewed).sum()),
        "repeated images of a view, of which the last is taken": len(used) - len(single),
    }
    breasts = single.drop_duplicates("exam").set_index("exam")[["patient", "side"]].sort_index()
    names = [name for (kind, _), name in INPUTS.items() if kind in kinds]
    files = single.pivot(index="exam", columns="input", values="path").reindex(columns=names)
    return breasts.join(files).fillna("").reset_index(), {what: count for what, count in left_out.items() if count}


def facts(name: str, kinds: tuple[str, ...], tasks: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What the study file of such a table says."""
    inputs = {
        name: {"column": name, "modality": kind, "kind": "mammogram", "laterality": "side"}
        for (kind, _), name in INPUTS.items()
        if kind in kinds
    }
    return {"name": name, "exam": "exam", "patient": "patient", "inputs": inputs, "tasks": dict(tasks), **more}


def agreed(values: pd.Series, exams: pd.Series) -> tuple[pd.Series, int]:
    """The one non-empty value of each exam, empty where its rows disagree; and in how many exams they do."""
    filled = values != ""
    groups = values[filled].groupby(exams[filled])
    single = groups.nunique() == 1
    return groups.first().where(single, ""), int((~single).sum())
