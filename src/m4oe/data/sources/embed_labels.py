"""Labels of EMBED for each breast: density, BI-RADS of several findings, and the years to cancer or to last follow-up.

Findings are a frame with a row for each finding of an exam (`accession`): patient, date, side, assessment, density,
severity, specimen_side, procedure_date. docs/sources.md states the rules in words.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from m4oe.data.sources.breasts import agreed

MALE = "5"
DENSITY = {"1": "A", "2": "B", "3": "C", "4": "D"}
CATEGORY = {"N": 1, "B": 2, "P": 3, "S": 4, "M": 5, "K": 6}
INCOMPLETE = "A"
KNOWN_CANCER = 6
GROUP = {1: "negative", 2: "benign", 3: "benign", 4: "suspicious", 5: "suspicious", 6: "suspicious"}
SUSPICIOUS = 4
CANCER = ("0", "1")  # path_severity: invasive, non-invasive
SIDES = {"L": ["L"], "R": ["R"]}
BOTH = ["L", "R"]
YEAR = 365.25
EXAM_TYPES = {"screen": "screening", "diag": "diagnostic"}


def label(table: pd.DataFrame, images: pd.DataFrame, findings: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Columns density, birads, birads_group, years, cancer, age, exam_type for the rows of `table`, and notes.

    `table` holds a breast in each row (exam is accession_side), `images` dates of exams that may lack findings.
    """
    density, disagreeing = agreed(findings["density"].map(DENSITY).fillna(""), findings["accession"])
    category = table["exam"].map(_category(_for_each_side(findings)))
    risk, unsided = _risk(table, images, findings, category == KNOWN_CANCER)
    about = findings.drop_duplicates("accession").set_index("accession")
    accession = table["exam"].str.rpartition("_")[0]
    labels = pd.DataFrame(
        {
            "density": accession.map(density).fillna(""),
            "birads": category.map(lambda value: "" if np.isnan(value) else str(int(value))),
            "birads_group": category.map(GROUP).fillna(""),
            **risk,
            "age": accession.map(about["age_at_study"]).fillna(""),
            "exam_type": accession.map(about["desc"].map(_exam_type)).fillna(""),
        }
    )
    notes = {
        "exams whose rows disagree on density, which is left empty": disagreeing,
        "patients with a cancer of unknown side or date, whose risk is left empty": unsided,
    }
    return labels, tuple(f"{count} {what}" for what, count in notes.items() if count)


def _for_each_side(findings: pd.DataFrame) -> pd.DataFrame:
    """A row for each finding and breast; a finding of both sides, or without one, is of either."""
    sides = [SIDES.get(side, BOTH) for side in findings["side"].str.upper()]
    sided = findings.assign(side=pd.Series(sides, findings.index, dtype=object)).explode("side")
    return sided.assign(exam=sided["accession"] + "_" + sided["side"])


def _category(sided: pd.DataFrame) -> pd.Series:
    """BI-RADS 1 to 6 of each exam, NaN where missing. The most suspicious finding decides; an incomplete one (0)
    leaves it open, unless another is suspicious already."""
    letters = sided["assessment"].str.upper()
    worst = letters.map(CATEGORY).groupby(sided["exam"]).max()
    open_ = letters.eq(INCOMPLETE).groupby(sided["exam"]).any()
    return worst.where(~open_ | (worst >= SUSPICIOUS))


def _risk(
    table: pd.DataFrame, images: pd.DataFrame, findings: pd.DataFrame, known: pd.Series
) -> tuple[dict[str, pd.Series], int]:
    """Columns years and cancer: from the exam to the first cancer of that breast, or to the patient's last exam.

    Both are empty after the cancer was found, and where there is no later exam. Also: how many patients have a
    cancer of unknown side or date.
    """
    dates = pd.concat([images[["patient", "accession", "date"]], findings[["patient", "accession", "date"]]])
    dates = dates.assign(date=_dates(dates["date"]))
    first, unclear = _first_cancer(findings)
    of_exam = dates.dropna().drop_duplicates("accession").set_index("accession")["date"]
    exam = table["exam"].str.rpartition("_")[0].map(of_exam)
    last = table["patient"].map(dates.groupby("patient")["date"].max())
    cancer = (table["patient"] + "_" + table["side"]).map(first)
    event = cancer.notna()
    days = (cancer.where(event, last) - exam).dt.days
    days = days.where(~event | (days != 0), 1)  # found on the day of the exam: within its first year
    usable = (days > 0) & ~known & ~table["patient"].isin(unclear)
    years = (days / YEAR).map("{:.4f}".format).where(usable, "")
    return {"years": years, "cancer": event.map({True: "1", False: "0"}).where(usable, "")}, len(unclear)


def _first_cancer(findings: pd.DataFrame) -> tuple[pd.Series, set[str]]:
    """Date of the first cancer by "patient_side", and the patients of whom side or date of one is not known.

    The side is that of the specimen, else of the finding; the date that of the procedure, else of the exam.
    """
    cancers = findings[findings["severity"].isin(CANCER)]
    side = cancers["specimen_side"].where(cancers["specimen_side"] != "", cancers["side"]).str.upper()
    date = _dates(cancers["procedure_date"]).fillna(_dates(cancers["date"]))
    clear = side.isin(["L", "R", "B"]) & date.notna()
    sides = [BOTH if value == "B" else [value] for value in side[clear]]
    found = pd.DataFrame({"patient": cancers["patient"][clear], "side": sides, "date": date[clear]}).explode("side")
    return found.groupby(found["patient"] + "_" + found["side"])["date"].min(), set(cancers["patient"][~clear])


def _dates(texts: pd.Series) -> pd.Series:
    return pd.to_datetime(texts.str.slice(0, 10), format="%Y-%m-%d", errors="coerce")


def _exam_type(description: str) -> str:
    text = description.lower()
    return next((kind for word, kind in EXAM_TYPES.items() if word in text), "")
