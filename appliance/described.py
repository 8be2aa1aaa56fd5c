"""What a header says of body part and view, beside the attributes that are meant for it.

Scanners leave those empty or at their default, so codes and free text count, too. The more specific statement counts
more: the coded region before the series' own texts, these before the study's, which several images share. Words
are whole ones, or begin with what is looked for (``THORAXAUFNAHME``); "Fehlstellung" speaks of no lung.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydicom import Dataset

from appliance.image import text

# Of a series, then of its study.
_TEXTS = (
    ("ProtocolName", "SeriesDescription", "AcquisitionDeviceProcessingDescription"),
    ("StudyDescription", "RequestedProcedureDescription"),
)
KEYWORDS = (*_TEXTS[0], *_TEXTS[1])
# Other body parts that radiographs are taken of, as whole words; English, German, French, Spanish.
_OTHER_PARTS = frozenset(
    re.findall(
        r"\S+",
        """
        HAND HANDS FINGER FINGERS THUMB WRIST FOREARM ELBOW HUMERUS SHOULDER CLAVICLE SCAPULA FOOT FEET TOE TOES HEEL
        CALCANEUS ANKLE TIBIA FIBULA KNEE KNEES PATELLA FEMUR HIP HIPS PELVIS SACRUM COCCYX SPINE LUMBAR CERVICAL
        ABDOMEN KUB SKULL SINUS SINUSES MANDIBLE TEETH BREAST EXTREMITY LEG
        HÄNDE DAUMEN HANDGELENK UNTERARM ELLENBOGEN ELLBOGEN OBERARM SCHULTER SCHLÜSSELBEIN FUSS FUß FÜSSE ZEHE ZEHEN
        FERSE SPRUNGGELENK UNTERSCHENKEL KNIE OBERSCHENKEL HÜFTE BECKEN WIRBELSÄULE HWS BWS LWS SCHÄDEL KIEFER
        DOIGT POIGNET COUDE EPAULE ÉPAULE PIED CHEVILLE GENOU HANCHE BASSIN RACHIS CRANE CRÂNE
        MANO MUÑECA CODO HOMBRO TOBILLO RODILLA CADERA COLUMNA
        """,
    )
)
_NO_FRONTAL = frozenset(
    ("LL", "LAT", "LATERAL", "LATERALE", "SEITLICH", "PROFIL", "RAO", "LAO", "RPO", "LPO", "OBL", "OBLIQUE", "SCHRÄG")
)
_NO_FRONTAL_BEGIN = ("DECUB", "LORDOT")
_FRONTAL = frozenset(("PA", "AP", "FRONTAL"))
# Meanings in View Code Sequence (context group 4010), without their dashes.
_VIEWS = {"POSTERO ANTERIOR": "PA", "POSTEROANTERIOR": "PA", "ANTERO POSTERIOR": "AP", "ANTEROPOSTERIOR": "AP"}


def body_part(header: Dataset, wanted: Iterable[str], stated: bool, projection: bool) -> tuple[bool, str]:
    """Whether a header speaks of one of the body parts that are wanted, and which other one speaks against it.

    Parameters
    ----------
    wanted
        In capitals.
    stated
        Body Part Examined is one of them: only a more specific statement of another part alone contradicts.
    projection
        It is a radiograph, which shows all that it names: another part beside the wanted one leaves a doubt.
    """
    beginnings = tuple(wanted)
    region, series, study = _codes(header, "AnatomicRegionSequence"), *(_texts(header, each) for each in _TEXTS)
    for said in (region, series) if stated else (region, series, study):
        words = _words(said)
        named = any(word.startswith(beginnings) for word in words)
        other = next((word for word in words if word in _OTHER_PARTS), "") if projection else ""
        if other and not (stated and named):
            return named, other
        if named:
            return True, ""
    return stated, ""


def view(header: Dataset) -> str:
    """``PA`` or ``AP``, what else the view is said to be, in capitals, or ""."""
    stated = text(header, "ViewPosition").upper()
    if stated:
        return stated
    meaning = " ".join(_codes(header, "ViewCodeSequence").replace("-", " ").split())
    if meaning:
        return _VIEWS.get(meaning.removesuffix(" PROJECTION").removesuffix(" VIEW"), meaning)
    return ""


def described_otherwise(header: Dataset) -> bool:
    """Whether the texts say that the view is no frontal one; of several that they name, nobody knows which it is."""
    for level in _TEXTS:
        words = _words(_texts(header, level))
        if any(word in _NO_FRONTAL or word.startswith(_NO_FRONTAL_BEGIN) for word in words):
            return True
        if _FRONTAL.intersection(words):
            return False
    return False


def _codes(header: Dataset, keyword: str) -> str:
    return " ".join(text(item, "CodeMeaning") for item in header.get(keyword) or ()).upper().strip()


def _texts(header: Dataset, keywords: Iterable[str]) -> str:
    return " ".join(text(header, keyword) for keyword in keywords).upper()


def _words(said: str) -> list[str]:
    """Letters only: ``CHEST_LAT`` and ``p.a.`` are words like others."""
    return re.findall(r"[^\W\d_]+", said.replace(".", ""))
