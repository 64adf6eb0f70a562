"""What a DICOM header says that may be told: numbers, and words of closed lists. No free text, name, date or id.

Whatever is read from a header and shown, stored or compared goes through Facts or through `term`: a value that is not
in its list is not repeated, so that no text of a file can reach a message, a table or a log.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from m4oe.data.readers.mammogram import View, view_of
from m4oe.errors import UserError

# Kind of input -> values of Modality that it may have. What is known is what stands here.
MODALITIES: Mapping[str, tuple[str, ...]] = {
    "mammogram": ("MG",),
    "xray": ("CR", "DX", "RG", "RF", "XA", "PX", "IO"),
    "ct": ("CT",),
    "mr": ("MR",),
    "ultrasound": ("US", "IVUS", "BI"),
    "photo": ("OP", "XC", "ES", "GM", "DMS"),
    "oct": ("OPT", "OCT", "OPTENF", "IVOCT"),
    "pathology": ("SM", "GM"),
    "other": ("PT", "NM", "OT", "SC", "BMD", "LEN", "OAM", "OPM", "OPV", "AR", "KER", "LP", "DG", "DF", "EC"),
}
KNOWN = tuple(dict.fromkeys(name for names in MODALITIES.values() for name in names))
INTENTS: Mapping[str, Literal["presentation", "processing"]] = {
    "FOR PRESENTATION": "presentation",
    "FOR PROCESSING": "processing",
}
INTENT_OF_CLASS: Mapping[str, Literal["presentation", "processing"]] = {
    "1.2.840.10008.5.1.4.1.1.1.1": "presentation",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "processing",
    "1.2.840.10008.5.1.4.1.1.1.2": "presentation",
    "1.2.840.10008.5.1.4.1.1.1.2.1": "processing",
}
# JPEG 2000 and the others lose nothing under some transfer syntaxes; under these they may, or do.
LOSSY = (".4.50", ".4.51", ".4.81", ".4.91", ".4.203")
MADE_FROM_TOMOSYNTHESIS = re.compile(r"C-?VIEW|S2D|SYNTHETIC|SYNTHESI[SZ]ED|INSIGHT ?2D|V-?PREVIEW")
TOMOSYNTHESIS = "1.2.840.10008.5.1.4.1.1.13.1.3"
MAMMOGRAPHY = (
    "1.2.840.10008.5.1.4.1.1.1.2",
    "1.2.840.10008.5.1.4.1.1.1.2.1",
    TOMOSYNTHESIS,
    "1.2.840.10008.5.1.4.1.1.13.1.4",
    "1.2.840.10008.5.1.4.1.1.13.1.5",
)


@dataclass(frozen=True)
class Facts:
    """modality: a value of Modality (C.7.3.1.1.1) if it is a known one · intent: whether a projection is ready to be
    seen (presentation) or raw (processing), None where not told · view: side and view of a breast, where told · lossy:
    compressed with loss · burnt_in: text stands in the pixels, None where not told · implant: in the breast, None
    where not told · mammography: the object's class is one of mammography · synthetic: computed from a tomosynthesis ·
    tomosynthesis: a stack of slices of a breast · patient, study: hashes, only with a salt.
    """

    modality: str | None = None
    intent: Literal["presentation", "processing"] | None = None
    view: View = field(default_factory=View)
    lossy: bool = False
    burnt_in: bool | None = None
    implant: bool | None = None
    mammography: bool = False
    synthetic: bool = False
    tomosynthesis: bool = False
    patient: str | None = None
    study: str | None = None

    @property
    def words(self) -> frozenset[str]:
        """What a mammogram is, as words by which an input may be named: ffdm, synthetic2d (or syn) or
        tomosynthesis; cc; left. Else none."""
        if self.modality != "MG" and not self.mammography:
            return frozenset()
        synthetic = ("synthetic2d", "syn") if self.synthetic else ()
        form = synthetic or ("tomosynthesis" if self.tomosynthesis else "ffdm",)
        return frozenset(word.lower() for word in (*form, self.view.side, self.view.view) if word)

    def notes(self, kind: str) -> tuple[str, ...]:
        """What one should know who takes this picture for an input of `kind`; one sentence each."""
        return tuple(_notes(self, kind))


def facts_in(dataset: Any, salt: str | None = None) -> Facts:
    """The facts in a data set."""
    uid = str(dataset.get("SOPClassUID", ""))
    intent = INTENTS.get(text(dataset, "PresentationIntentType"), INTENT_OF_CLASS.get(uid))
    return Facts(
        modality=term(dataset, "Modality", KNOWN),
        intent=intent,
        view=view_of(dataset),
        lossy=_lossy(dataset),
        burnt_in=_yes(dataset, "BurnedInAnnotation"),
        implant=_yes(dataset, "BreastImplantPresent"),
        mammography=uid in MAMMOGRAPHY,
        synthetic=_synthetic(dataset),
        tomosynthesis=uid == TOMOSYNTHESIS,
        patient=_hashed(dataset, "PatientID", salt),
        study=_hashed(dataset, "StudyInstanceUID", salt),
    )


def _hashed(dataset: Any, keyword: str, salt: str | None) -> str | None:
    identity = text(dataset, keyword)
    return pseudonym(identity, salt) if salt is not None and identity else None


def pseudonym(identity: str, salt: str) -> str:
    """`identity` hashed with `salt` (HMAC-SHA256, 16 hexadecimal digits): the same for the same salt, else nothing
    like it. Who knows the salt can find an id by trying all of them: keep it secret, or throw it away.
    Raises UserError for an empty salt, which would hide nothing.
    """
    if not salt:
        raise UserError("an empty salt hides no patient; give a secret word or number")
    return hmac.new(salt.encode(), identity.strip().encode(), hashlib.sha256).hexdigest()[:16]


def term(tags: Any, keyword: str, known: Iterable[str]) -> str | None:
    """The value of a tag if it is one of the `known`, else None."""
    value = text(tags, keyword)
    return value if value in tuple(known) else None


def text(tags: Any, keyword: str) -> str:
    """The value of a tag as plain capitals, its first one if it has several; for comparison, never to be shown."""
    value = tags.get(keyword)
    if isinstance(value, str) or not hasattr(value, "__len__"):
        return str(value if value is not None else "").strip().upper()
    return str(value[0]).strip().upper() if len(value) else ""


def _lossy(dataset: Any) -> bool:
    """Whether the pixels went through a compression that changes them."""
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    return syntax.endswith(LOSSY) or str(dataset.get("LossyImageCompression", "")) == "01"


def _synthetic(dataset: Any) -> bool:
    """By ImageType (C.8.11.7.1.4), else by the names that makers give it."""
    kinds = dataset.get("ImageType") or ()
    described = re.search(
        r"C-?VIEW|S2D|SYNTHETIC|SYNTHESI[SZ]ED|INSIGHT ?2D|V-?PREVIEW", text(dataset, "SeriesDescription")
    )
    return "GENERATED_2D" in map(str, [kinds] if isinstance(kinds, str) else kinds) or described is not None


def _yes(tags: Any, keyword: str) -> bool | None:
    return {"YES": True, "NO": False}.get(text(tags, keyword))


def _notes(facts: Facts, kind: str) -> Iterable[str]:
    expected = MODALITIES.get(kind, ())
    if expected and kind != "other" and facts.modality not in expected:
        says = f"says {facts.modality}" if facts.modality else "is missing or unknown"
        yield f"its Modality {says}, where one of a {kind} is {' or '.join(expected)}"
    if facts.burnt_in:
        yield "it says that text is burnt into its pixels: look for names before it is shared"
    if facts.intent == "processing":
        yield "FOR PROCESSING: raw detector values, not to be mixed with pictures FOR PRESENTATION"
    if kind == "mammogram":
        yield from facts.view.notes
        if facts.implant or "implant displaced" in facts.view.modifiers:
            yield "a breast with an implant"
