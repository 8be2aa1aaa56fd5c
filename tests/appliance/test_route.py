"""Which instances are read, which are turned away, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from pydicom import Dataset
from pydicom.sequence import Sequence

from appliance import package
from appliance.errors import NotAcceptedError
from appliance.image import read_header
from appliance.preprocess import Step
from appliance.route import check_spacing, route
from tests.dicom_files import DX, make_radiograph
from tests.running import CHECKOUT

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")
REAL = CHECKOUT.parent / "shared" / "dicom" / "pydicom-data" / "RG1_J2KI.dcm"


@pytest.fixture(scope="module")
def bundled() -> package.Package:
    return package.read(package.bundled("chest-pneumonia")[0], None)


def coded(value: str, scheme: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return Sequence([item])


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"SOPClassUID": DX, "Modality": "DX"},
        {"ViewPosition": "AP"},
        {"BodyPartExamined": "", "SeriesDescription": "Chest PA"},
        {"BodyPartExamined": None, "StudyDescription": "XR THORAX"},
        {"BodyPartExamined": "", "AnatomicRegionSequence": coded("51185008", "SCT", "Chest")},
        {"ViewPosition": "", "ViewCodeSequence": coded("399348003", "SCT", "antero-posterior")},
        {"ViewPosition": "", "ViewCodeSequence": coded("272479007", "SCT", "Postero-anterior projection")},
        {"BodyPartExamined": "", "StudyDescription": "Thoraxaufnahme p.a."},
        {"StudyDescription": "XR CHEST AND LEFT HAND"},  # Body Part Examined says which
        {"PatientOrientation": ["R", "F"]},
        {"PatientAge": "004Y", "PatientBirthDate": "20210601", "StudyDate": "20260101"},
    ],
    ids=str,
)
def test_frontal_chest_radiographs_are_read_without_a_warning(
    attributes: dict[str, object], bundled: package.Package, tmp_path: Path
) -> None:
    chosen, warnings = route(read_header(make_radiograph(tmp_path / "a.dcm", **attributes)), [bundled])
    assert chosen is bundled
    assert warnings == ()


def test_voxels_that_a_package_was_not_made_for_are_turned_away(bundled: package.Package) -> None:
    accepts = replace(bundled.manifest.accepts, millimeters=(0.5, 2.0))
    thin = package.Package(bundled.path, "", replace(bundled.manifest, accepts=accepts), {}, None)
    check_spacing(thin, (30, 50, 40), (2.0, 0.5, 1.0))
    check_spacing(thin, (500, 400), None)
    for spacing in ((2.2, 1.0, 1.0), (1.0, 1.0, 0.4)):
        with pytest.raises(NotAcceptedError, match=r"voxels are of .* mm; \S+ \S+ reads 0\.5 to 2 mm along each axis"):
            check_spacing(thin, (30, 50, 40), spacing)


def test_a_spacing_that_no_patient_has_is_turned_away_before_it_takes_the_memory(bundled: package.Package) -> None:
    spec = replace(bundled.manifest.input, steps=(Step("resample", {"millimeters": 1.0}),))
    volumes = package.Package(bundled.path, "", replace(bundled.manifest, input=spec), {}, None)
    check_spacing(volumes, (12, 51, 35), (3.0, 2.0, 2.0))
    with pytest.raises(NotAcceptedError, match="larger than any patient"):
        check_spacing(volumes, (12, 51, 35), (1.0, 300.0, 300.0))


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ({"ViewPosition": ""}, "view position is not stated"),
        ({"PatientAge": "061Y"}, "61 years old"),
        ({"PatientAge": "003M"}, "younger than one year"),
        ({"PatientAge": None}, "age is not stated"),
        ({"PatientAge": "004Y", "PatientBirthDate": "19500101"}, "not stated for certain: 4 years old by"),
        ({"PatientOrientation": ["L", "H"]}, "not upright"),
        ({"PatientOrientation": ["F", "R"]}, "not upright"),
        ({"ViewPosition": "", "SeriesDescription": "CHEST PA", "StudyDescription": "PA AND LAT"}, "view position"),
    ],
    ids=str,
)
def test_what_is_outside_validated_use_is_read_with_a_warning(
    attributes: dict[str, object], word: str, bundled: package.Package, tmp_path: Path
) -> None:
    _, warnings = route(read_header(make_radiograph(tmp_path / "a.dcm", **attributes)), [bundled])
    assert any(word in warning for warning in warnings), warnings


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "Modality": "CT"}, "CT"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1", "Modality": "DX"}, "For Processing"),
        ({"Modality": "MG"}, "mammography"),
        ({"BodyPartExamined": "HAND"}, "HAND"),
        ({"BodyPartExamined": ""}, "body part"),
        ({"BodyPartExamined": "", "SeriesDescription": "Left hand"}, "body part"),
        ({"ViewPosition": "LL"}, "lateral"),
        ({"ViewPosition": "RLD"}, "lateral"),
        ({"ViewPosition": "", "SeriesDescription": "CHEST LAT"}, "lateral"),
        ({"ViewPosition": "", "ViewCodeSequence": coded("399067008", "SCT", "lateral projection")}, "lateral"),
        ({"ViewPosition": "", "SeriesDescription": "CHEST_LAT"}, "lateral"),
        ({"ViewPosition": "", "ProtocolName": "Thorax LL"}, "lateral"),
        ({"ViewPosition": "", "SeriesDescription": "CHEST DECUBITUS LEFT"}, "lateral"),
        ({"ViewPosition": "", "SeriesDescription": "CHEST OBLIQUE RAO"}, "lateral"),
        ({"ViewPosition": "", "ViewCodeSequence": coded("R-10216", "SRT", "postero-anterior oblique")}, "oblique"),
        (
            {
                "ViewPosition": "",
                "ViewCodeSequence": coded("R-1022D", "SRT", "antero-posterior left lateral decubitus"),
            },
            "lateral",
        ),
        ({"PatientOrientation": ["A", "F"]}, "lateral"),
        ({"BodyPartExamined": "", "StudyDescription": "Knie links, Fehlstellung"}, "KNIE"),
        ({"BodyPartExamined": "", "StudyDescription": "Fehlstellung", "SeriesDescription": "AP"}, "body part"),
        ({"BodyPartExamined": "", "SeriesDescription": "Hand Spezialeinstellung"}, "HAND"),
        ({"BodyPartExamined": "", "StudyDescription": "XR CHEST, LEFT HAND", "SeriesDescription": "HAND L"}, "HAND"),
        ({"BodyPartExamined": "", "StudyDescription": "Chest and abdomen", "SeriesDescription": "AP"}, "ABDOMEN"),
        ({"AnatomicRegionSequence": coded("85562004", "SCT", "Hand")}, "HAND"),
        ({"SeriesDescription": "HAND"}, "HAND"),
        ({"SOPClassUID": DX, "Modality": "DX", "PresentationIntentType": "FOR PROCESSING"}, "For Processing"),
        ({"ImageType": ["DERIVED", "SECONDARY", "", "SUBTRACTION"]}, "subtracted"),
        ({"NumberOfFrames": 2}, "2 frames"),
        ({"PhotometricInterpretation": "RGB"}, "grayscale"),
        ({"Rows": None}, "no pixels"),
    ],
    ids=str,
)
def test_other_images_are_turned_away_in_words(
    attributes: dict[str, object], word: str, bundled: package.Package, tmp_path: Path
) -> None:
    with pytest.raises(NotAcceptedError) as refused:
        route(read_header(make_radiograph(tmp_path / "a.dcm", **attributes)), [bundled])
    assert word.lower() in str(refused.value).lower()
    assert "frontal chest" in str(refused.value)


def test_without_a_package_nothing_is_taken(tmp_path: Path) -> None:
    with pytest.raises(NotAcceptedError, match="No model package"):
        route(read_header(make_radiograph(tmp_path / "a.dcm")), [])


@pytest.mark.skipif(not REAL.exists(), reason="no real DICOM files beside the checkout (shared/dicom)")
def test_a_real_chest_radiograph_of_an_adult_is_read_with_a_warning(bundled: package.Package) -> None:
    chosen, warnings = route(read_header(REAL), [bundled])
    assert chosen is bundled
    assert warnings
