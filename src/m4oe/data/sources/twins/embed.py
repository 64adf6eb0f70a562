"""The twin of EMBED: some exams written out, each with a trap, and others drawn at random."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from m4oe.data.sources.twins.mammograms import write_mammogram

PREFIX = "/mnt/NAS2/mammo/anon_dicom/"  # the table keeps a path of the place where it was made
DENSITY = dict(zip("1234", "ABCD"))


@dataclass(frozen=True)
class Finding:
    """A row of the clinical table."""

    side: str
    asses: str
    density: str = "2"
    severity: str = ""
    bside: str = ""
    procdate: str = ""


@dataclass(frozen=True)
class Picture:
    """A row of the metadata, and a file."""

    side: str
    view: str
    type: str = "2D"
    spot: str = ""
    time: str = "100000"


STANDARD = tuple(Picture(side, view, type) for side, view, type in product("LR", ("CC", "MLO"), ("2D", "cview")))
PLAIN = tuple(picture for picture in STANDARD if picture.type == "2D")


@dataclass(frozen=True)
class Exam:
    """One accession."""

    patient: int
    accession: int
    date: str
    findings: tuple[Finding, ...]
    pictures: tuple[Picture, ...] = STANDARD
    desc: str = "MG Screening Bilateral w/CAD"
    extra: tuple[Picture, ...] = field(default=())


DIAGNOSTIC = "MG Diagnostic Bilateral w/ CAD"
TRAPS = (
    # Cancer on the left; the right breast is followed for three years, and the left one is not at risk any more.
    Exam(101, 1001, "2013-05-01", (Finding("L", "S", "3", "0", "L", "2013-05-20"), Finding("R", "N", "3"))),
    Exam(101, 1002, "2016-05-01", (Finding("L", "K", "3"), Finding("R", "B", "3")), PLAIN, DIAGNOSTIC),
    # Several findings of a side; incomplete ones (A).
    Exam(102, 1003, "2014-01-10", tuple(Finding(*f) for f in ("LB", "LS", "LN", "RA", "RN"))),
    Exam(102, 1004, "2015-01-10", (Finding("R", "A"), Finding("R", "M"))),
    Exam(103, 1005, "2014-02-02", (Finding("", "N", "5"),), PLAIN),  # a man
    # A finding of both sides; of the left breast one picture, and a magnification that is no MLO view of it.
    Exam(
        104,
        1006,
        "2014-03-03",
        (Finding("B", "P", "4"),),
        (PLAIN[0], *PLAIN[2:]),
        extra=(Picture("L", "MLO", spot="1.0"),),
    ),
    # No side: of either. A repeated view, a view of another kind, a picture of another type.
    Exam(
        105,
        1007,
        "2014-04-04",
        (Finding("", "N", "1.0"),),
        (Picture("L", "CC", time="101500"), *PLAIN[1:]),
        extra=(Picture("L", "CC", time="095500"), Picture("R", "XCCL"), Picture("R", "CC", "ROI_SSC")),
    ),
    # The cancer stands with the later exam alone, and the specimen is of the other side than the finding.
    Exam(106, 1008, "2013-09-01", (Finding("", "N"),)),
    Exam(106, 1009, "2014-03-01", (Finding("L", "S", "2", "1", "R", "2014-03-11"),), PLAIN, DIAGNOSTIC),
    Exam(107, 1010, "2014-05-05", ()),  # no row in the clinical table
    Exam(107, 1011, "2015-05-05", (Finding("L", "N", "2"), Finding("R", "N", "3"))),  # disagrees on density
    # A benign specimen is no cancer; a cancer without a side may be of either breast.
    Exam(108, 1012, "2013-06-01", (Finding("L", "S", "2", "4", "L", "2013-06-09"), Finding("R", "X"))),
    Exam(108, 1013, "2015-06-01", (Finding("", "B"),)),
    Exam(109, 1014, "2013-07-01", (Finding("", "S", "4", "0"),)),
)
DRAWN = 10  # patients beyond the traps, with two exams each


def write_embed(folder: Path) -> None:
    """Writes tables/ and images/cohort_1/PATIENT/EXAM/IMAGE.dcm."""
    rows: list[dict[str, object]] = []
    findings: list[dict[str, object]] = []
    for exam in (*TRAPS, *_drawn()):
        findings += [_finding_row(exam, number, finding) for number, finding in enumerate(exam.findings, start=1)]
        for picture in (*exam.pictures, *exam.extra):
            rows.append(_write(folder, exam, picture, len(rows)))
    (folder / "tables").mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / "tables" / "EMBED_OpenData_metadata.csv")
    pd.DataFrame(findings).to_csv(folder / "tables" / "EMBED_OpenData_clinical.csv")


def _drawn() -> Iterator[Exam]:
    rng = np.random.default_rng(11)
    for patient in range(201, 201 + DRAWN):
        density, year = str(rng.integers(1, 5)), int(rng.integers(2012, 2015))
        sick, side = patient % 3 == 0, str(rng.choice(["L", "R"]))
        first, second = (Finding("", str(rng.choice(["N", "B"])), density) for _ in range(2))
        if sick:
            second = Finding(side, "S", density, "0", side, f"{year + 2}-08-15")
        yield Exam(patient, 10 * patient, f"{year}-07-01", (first,), PLAIN)
        yield Exam(patient, 10 * patient + 1, f"{year + 2}-07-21", (second,), STANDARD if patient % 2 else PLAIN)


def _finding_row(exam: Exam, number: int, finding: Finding) -> dict[str, object]:
    return {
        "empi_anon": exam.patient,
        "acc_anon": exam.accession,
        "study_date_anon": exam.date,
        "desc": exam.desc,
        "tissueden": finding.density,
        "asses": finding.asses,
        "numfind": number,
        "side": finding.side,
        "bside": finding.bside,
        "procdate_anon": finding.procdate,
        "path_severity": finding.severity,
        "age_at_study": 40 + exam.patient % 40,
    }


def _write(folder: Path, exam: Exam, picture: Picture, number: int) -> dict[str, object]:
    """Writes the file of one picture, and returns its row of the metadata."""
    path = f"cohort_{1 + exam.patient % 2}/{exam.patient}/1.2.{exam.accession}/1.2.{number}.dcm"
    own = [finding for finding in exam.findings if finding.side in (picture.side, "", "B")]
    write_mammogram(
        folder / "images" / path,
        number,
        side=picture.side,
        view=picture.view,
        patient=str(exam.patient),
        density=DENSITY.get(own[0].density[:1], "B") if own else "B",
        suspicious=any(finding.asses in "SM" for finding in own),
        synthetic=picture.type == "cview",
    )
    return {
        "anon_dicom_path": PREFIX + path,
        "empi_anon": exam.patient,
        "acc_anon": exam.accession,
        "study_date_anon": exam.date,
        "FinalImageType": picture.type,
        "ImageLateralityFinal": picture.side,
        "ViewPosition": picture.view,
        "spot_mag": picture.spot,
        "AcquisitionTime": picture.time,
    }
