"""De-identification by the Basic Application Level Confidentiality Profile of DICOM PS3.15, Annex E.

Which attribute gets which action, and the dummy values, are dicom-anonymizer's, from Table E.1-1 of edition 2026c. What
that library leaves open is closed here, and each is tested:

- it looks at the top level only: here every item of a sequence that stays is treated the same;
- its UIDs are random and forgotten at the end of the process, and references (X/Z/U*) are emptied: here they are
  pseudonyms under a key, so that a segmentation still finds its images, today and in a later run;
- it writes the year 1, which validators refuse, in place of dates, those that are to be removed or emptied, too: here
  these are removed or empty, and the others say 1900;
- emptied sequences keep their items: here they have none;
- file meta information and preamble stay: here they are written anew;
- elements of unknown meaning, names and free text that the table does not list (Text Value in an item), and what is
  left of overlays stay: here they go;
- Patient Identity Removed and De-identification Method are not set: here they are.

Pixels are not changed; `compression.deidentify_files` refuses those that say that names are burned into them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from dicomanonymizer.simpledicomanonymizer import anonymize_dataset, initialize_actions
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_has_tag, repeater_has_tag
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.tag import BaseTag, Tag
from pydicom.uid import ExplicitVRLittleEndian

from appliance.image import age_years, text
from compression.identifying import FREE_TEXT, HARMLESS_TEXT
from compression.pseudonyms import Pseudonyms

EDITION = "2026c"
_OLDEST = 89  # an age above this is rare enough to tell who it is; the year is cut off there
_CHARACTERISTICS = ("PatientAge", "PatientSex", "PatientSize", "PatientWeight")
_REMOVING, _EMPTYING = {"delete", "replace", "empty_or_replace", "delete_or_replace"}, {"empty", "delete_or_empty"}
_DUMMY_TIMES = {"DA": "19000101", "DT": "19000101000000", "TM": "000000"}
_OVERLAYS = range(0x6000, 0x6100)

Action = Callable[[Dataset, tuple[int, int]], None]


def deidentify(dataset: Dataset, pseudonyms: Pseudonyms, characteristics: bool = False) -> None:
    """De-identify a data set in place, with all its items; its file meta information is written anew.

    Parameters
    ----------
    characteristics
        Keep age (89 at most), sex, size and weight: the profile's Retain Patient Characteristics Option.
    """
    patient = pseudonyms.patient(text(dataset, "PatientID") or text(dataset, "StudyInstanceUID"))
    retained = {name: dataset[name].value for name in _CHARACTERISTICS if characteristics and dataset.get(name)}
    if characteristics and (years := age_years(dataset)) is not None:  # from the birth date, where there is no age
        retained.setdefault("PatientAge", f"{int(years):03d}Y")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # values that break the rules are not what is judged here
        _items(dataset, _rules(pseudonyms))
    dataset.PatientID = dataset.PatientName = patient
    for name, value in retained.items():
        setattr(dataset, name, _age(str(value)) if name == "PatientAge" else value)
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = [f"DICOM PS3.15 {EDITION} Basic Profile", "Scanside with dicom-anonymizer"]
    dataset.DeidentificationMethodCodeSequence = [
        _code(codes.DCM.BasicApplicationConfidentialityProfile),
        *([_code(codes.DCM.RetainPatientCharacteristicsOption)] if characteristics else []),
    ]
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.get("TransferSyntaxUID", ExplicitVRLittleEndian)
    dataset.file_meta = meta
    dataset.preamble = b"\0" * 128


def _items(dataset: Dataset, rules: dict[tuple[int, ...], Action]) -> None:
    anonymize_dataset(dataset, base_rules_gen=lambda: dict(rules))
    for tag in list(dataset.keys()):
        if _is_unknown(tag) or tag.group in _OVERLAYS:
            del dataset[tag]
            continue
        element = dataset[tag]
        if (tag.group, tag.element) not in rules and _is_free(element):
            del dataset[tag]
        elif element.VR == "SQ":
            for item in element.value or ():
                _items(item, rules)


def _is_free(element: DataElement) -> bool:
    """Whether anything can stand in it, a name for instance."""
    return element.VR == "PN" or (element.VR in FREE_TEXT and element.keyword not in HARMLESS_TEXT)


def _is_unknown(tag: BaseTag) -> bool:
    return not dictionary_has_tag(tag) and not repeater_has_tag(tag)


def _rules(pseudonyms: Pseudonyms) -> dict[tuple[int, ...], Action]:
    """The library's actions by tag, each with its gaps closed; file meta information is not for them."""
    table = initialize_actions(f"dicomfields_{EDITION}")
    return {tag: _closed(action, pseudonyms) for tag, action in table.items() if tag[0] != 0x0002}


def _closed(action: Action, pseudonyms: Pseudonyms) -> Action:
    name = action.__name__

    def act(dataset: Dataset, tag: tuple[int, int]) -> None:
        element = dataset.get(Tag(tag))
        if element is None:
            return
        if element.VR == "SQ":
            # References (U) keep their items, which are treated in their turn. A dummy for anything else that a
            # sequence may hold would tell nothing.
            if name in _REMOVING:
                del dataset[element.tag]
            elif name in _EMPTYING:
                element.value = []
            elif not name.endswith("replace_UID"):
                del dataset[element.tag]
        elif element.VR == "UI" and name != "delete":
            _replace_uids(element, pseudonyms)
        elif name == "delete" or element.VR in ("OW", "OF", "OD", "OL", "OV"):  # the library has no dummy for numbers
            del dataset[element.tag]
        elif element.VR in _DUMMY_TIMES:
            element.value = None if name in _EMPTYING else _DUMMY_TIMES[element.VR]
        else:
            action(dataset, tag)

    return act


def _replace_uids(element: DataElement, pseudonyms: Pseudonyms) -> None:
    if isinstance(element.value, MultiValue):
        element.value = [pseudonyms.uid(str(uid)) for uid in element.value]
    else:
        element.value = pseudonyms.uid(str(element.value or ""))


def _age(value: str) -> str:
    return f"{_OLDEST:03d}Y" if value.endswith("Y") and value[:-1].isdigit() and int(value[:-1]) > _OLDEST else value


def _code(code: Any) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item
