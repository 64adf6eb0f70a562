"""Names planted in every text of a DICOM file: none of them comes out of the readers, whatever goes wrong."""

from __future__ import annotations

import json
import logging
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
from pydicom import config
from pydicom.datadict import DicomDictionary

from cohorts import study
from dicoms import dataset, item, save, slice_tags, write
from m4oe.data.check import check_studies
from m4oe.data.readers import form_of, read_picture
from m4oe.data.readers.dicom import facts_of
from m4oe.data.readers.facts import Facts, pseudonym
from m4oe.data.readers.series import series_in
from m4oe.errors import UserError

NAME, DATE, UID = "ZANZIBAR^QUENTIN", "19420229", "1.2.840.424242"
SECRETS = ("zanzibar", "quentin", DATE, UID)
TEXTS = ("PN", "LO", "SH", "ST", "LT", "UT", "UC", "UR", "AE", "CS")
DATES = ("DA", "DT", "AS", "TM")
# Without these there is no picture; what happens when a name stands in them is tested one by one.
STRUCTURE = {"PhotometricInterpretation", "Modality", "PixelPresentation", "PresentationLUTShape", "VOILUTFunction"}
PIXELS = np.arange(64 * 64, dtype="u2").reshape(64, 64)


def clean(text: str) -> bool:
    return not any(secret in text.lower() for secret in SECRETS)


def planted(**tags: object):
    """A data set with the name, a date or a uid in every tag of the standard that can hold one, and in private ones."""
    made = dataset(PIXELS, **tags)
    given = {element.keyword for element in made} | STRUCTURE
    count = 0
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
            value = NAME if vr in TEXTS else DATE if vr in DATES else UID if vr == "UI" else None
            if value is None or keyword in given or tag >> 16 in (0x0000, 0x0002, 0x0004) or not keyword:
                continue
            made.add_new(tag, vr, value)
            count += 1
        block = made.private_block(0x0041, NAME, create=True)
        block.add_new(0x01, "LT", NAME)
        made.RequestAttributesSequence = [item(ScheduledProcedureStepDescription=NAME)]
        made.file_meta.SourceApplicationEntityTitle = "ZANZIBAR"
    assert count > 1000
    return made


@pytest.fixture(autouse=True)
def pydicom_that_talks():
    """As it is before anything was read; what is planted may be written."""
    logger = logging.getLogger("pydicom")
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings(), config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield
        assert not logger.isEnabledFor(logging.CRITICAL)


def everything_of(path: Path, kind: str) -> str:
    """All that the readers say of a path, with what an error would print."""
    said = []
    for ask in (
        lambda: read_picture((str(path),), kind),
        lambda: form_of((str(path),), kind),
        lambda: facts_of(path),
        lambda: facts_of(path, salt="pepper"),
        lambda: [str(one) for one in series_in(path)] if path.is_dir() else "",
    ):
        try:
            found = ask()
            said.append(repr(found) + repr(getattr(found, "geometry", "")) + repr(getattr(found, "notes", "")))
        except UserError as error:
            said.append("".join(traceback.format_exception(error)))
    return "\n".join(said).replace(str(path), "")


@pytest.mark.parametrize("kind", ["mammogram", "ct", "ultrasound", "other"])
def test_no_text_of_a_file_comes_out(tmp_path, kind, caplog, capfd, recwarn):
    path = write(tmp_path / "a.dcm", planted(Modality="MG", BurnedInAnnotation="YES", ImageLaterality="L"))
    caplog.clear()
    recwarn.clear()
    said = everything_of(path, kind)
    assert "burnt into its pixels" in said and "Facts(modality='MG'" in said
    assert clean(said), said
    assert clean(caplog.text) and capfd.readouterr() == ("", "") and [str(one.message) for one in recwarn] == []


# Tags that a reader looks at, each with a name where something else should stand, in a form that the file can hold.
LOOKED_AT = (
    "PhotometricInterpretation", "Modality", "PresentationLUTShape", "VOILUTFunction", "NumberOfFrames", "PixelSpacing",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "WindowCenter", "WindowWidth", "ImagerPixelSpacing",
    "ImageLaterality", "Laterality", "ViewPosition", "PresentationIntentType", "BurnedInAnnotation", "PatientID",
    "BreastImplantPresent", "LossyImageCompression", "SeriesDescription", "ProtocolName", "SOPClassUID",
    "SeriesInstanceUID", "SeriesNumber", "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel", "Rows",
    "BitsStored", "BitsAllocated", "HighBit", "PixelPaddingValue", "PixelRepresentation", "PlanarConfiguration",
)  # fmt: skip


@pytest.mark.parametrize("keyword", LOOKED_AT)
def test_a_name_where_something_else_should_stand(tmp_path, keyword, caplog, capfd, recwarn):
    """Alone, in a series, and under a transfer syntax that unpacks elsewhere."""
    from pydicom.datadict import tag_for_keyword

    for place, position in (("a.dcm", 0), ("series/a.dcm", 0), ("series/b.dcm", 5)):
        made = dataset(PIXELS, PatientID=NAME, **slice_tags(position))
        made.pop(keyword, None)
        made.add_new(tag_for_keyword(keyword), "LO", NAME)
        write(tmp_path / place, made)
    caplog.clear()
    recwarn.clear()
    for path in (tmp_path / "a.dcm", tmp_path / "series"):
        said = everything_of(path, "mammogram")
        assert clean(said), said
    assert clean(caplog.text) and capfd.readouterr() == ("", "") and [str(one.message) for one in recwarn] == []


def test_a_syntax_that_is_a_name_is_not_repeated(tmp_path):
    path = save(tmp_path / "a.dcm", PIXELS)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.424242.2.1\0\0"))
    assert clean(everything_of(path, "ct")) and "transfer syntax" in everything_of(path, "ct")


def test_a_check_holds_no_text_of_a_file(tmp_path, capfd, caplog):
    lines = ["exam,patient,path,y"]
    for n in range(24):
        make = planted if n < 5 else lambda **tags: dataset(PIXELS, PatientName=NAME, **tags)
        made = make(Modality="CR" if n % 2 else NAME, BurnedInAnnotation="YES", PixelPaddingValue=n)
        if n == 3:
            made.PhotometricInterpretation = NAME
        if n == 4:
            made["Rows"].VR, made["Rows"].value = "LO", NAME
        made.PixelData = (PIXELS + n).tobytes()
        write(tmp_path / f"{n}.dcm", made)
        lines.append(f"E{n},P{n},{n}.dcm,{n % 2}")
    caplog.clear()
    findings = check_studies([study(tmp_path, "\n".join(lines) + "\n", exam="exam", patient="patient")])
    said = json.dumps(findings.to_json())
    assert "burnt into" in said and "colours of an unknown form" in said and findings.spoils_training
    assert clean(said) and clean(caplog.text) and clean("".join(capfd.readouterr()))


def test_facts_are_words_of_closed_lists_and_numbers(tmp_path):
    """A new field of free text would have to be put into this test by hand."""
    facts = facts_of(write(tmp_path / "a.dcm", planted(Modality="MG")))
    assert list(vars(facts)) == [
        "modality", "intent", "view", "lossy", "burnt_in", "implant", "mammography", "synthetic", "tomosynthesis",
        "patient", "study",
    ]  # fmt: skip
    assert facts == Facts(modality="MG")


def test_a_patient_is_hashed_with_a_salt_and_only_when_asked(tmp_path):
    path = save(tmp_path / "a.dcm", PIXELS, PatientID="P-17")
    assert facts_of(path).patient is None
    hashed = facts_of(path, salt="pepper").patient
    assert hashed == pseudonym("P-17", "pepper") and len(hashed) == 16 and "17" not in hashed[:2] + "P-17"[:1]
    assert hashed == facts_of(save(tmp_path / "b.dcm", PIXELS, PatientID="P-17 "), salt="pepper").patient
    others = {facts_of(path, salt="salt").patient, pseudonym("P-18", "pepper")}
    assert hashed not in others and len(others) == 2
    assert facts_of(save(tmp_path / "c.dcm", PIXELS), salt="pepper").patient is None
    with pytest.raises(UserError, match="an empty salt hides no patient"):
        facts_of(path, salt="")
