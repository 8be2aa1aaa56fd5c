"""Kappas against textbook values, and labels out of several readings."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import cohen_kappa_score

from compression import readers
from compression.cli import main
from compression.recipe import RecipeError

# Ten subjects, fourteen raters, five categories: the usual worked example of Fleiss' kappa, 0.210.
FLEISS = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


def two_readers(table: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Labels of two readers out of how often the first said a row and the second a column."""
    pairs = [(row, column) for row, counts in enumerate(table) for column, times in enumerate(counts)
             for _ in range(times)]  # fmt: skip
    one, other = np.array(pairs).T
    return one, other


@pytest.mark.parametrize(
    ("table", "kappa"),
    [
        ([[20, 5], [10, 15]], 0.4),  # 50 proposals, agreement 0.70, by chance 0.50
        ([[45, 15], [25, 15]], 0.1304),  # 100 each, the same agreement of 0.60
        ([[25, 35], [5, 35]], 0.2593),
        ([[88, 14, 18], [10, 40, 10], [2, 6, 12]], 0.4915),  # Cohen 1960: three diagnoses of 200 patients
    ],
)
def test_cohens_kappa_is_the_textbooks(table: list[list[int]], kappa: float) -> None:
    one, other = two_readers(table)
    assert readers.cohen(one, other) == pytest.approx(kappa, abs=5e-4)
    assert readers.cohen(one, other) == pytest.approx(cohen_kappa_score(one, other))


def test_fleiss_kappa_is_the_textbooks() -> None:
    assert readers.fleiss(np.array(FLEISS)) == pytest.approx(0.210, abs=5e-4)


def test_images_with_fewer_votes_count_by_their_pairs() -> None:
    once_more = np.vstack([FLEISS, [[0, 0, 1, 0, 0]]])
    assert readers.fleiss(once_more) == pytest.approx(readers.fleiss(np.array(FLEISS)))
    assert np.isnan(readers.fleiss(np.array([[1, 0], [0, 1]])))


def test_images_that_one_reader_did_not_see_do_not_count() -> None:
    one, other = two_readers([[20, 5], [10, 15]])
    assert readers.cohen(np.append(one, -1), np.append(other, 0)) == pytest.approx(0.4)
    assert np.isnan(readers.cohen(np.array([0, -1]), np.array([-1, 0])))
    assert np.isnan(readers.cohen(np.array([0, 0]), np.array([0, 0])))  # by chance they can't but agree


def write_readings(path: Path, readings: dict[str, str]) -> Path:
    """Letters of a word are the labels that ann, bob, cid... gave; a dot is an image not read."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "reader", "label"])
        for image, word in readings.items():
            writer.writerows(
                [image, reader, label]
                for reader, label in zip(("ann", "bob", "cid"), word, strict=False)
                if label != "."
            )
    return path


def test_the_majority_decides_and_ties_are_listed(tmp_path: Path) -> None:
    path = write_readings(tmp_path / "r.csv", {"1": "yyn", "2": "ynn", "3": "yn.", "4": "yyy", "5": "n.."})
    decided, ties = readers.adjudicate(readers.read(path))
    assert decided == {"1": "y", "2": "n", "4": "y", "5": "n"}
    assert ties == {"3": {"n": 1, "y": 1}}


def test_intervals_hold_the_value_and_narrow_with_more_images(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    widths = []
    for count in (30, 300):
        truth = chance.random(count) < 0.4
        words = {
            f"{index}": "".join("y" if sick == (chance.random() < 0.9) else "n" for _ in range(3))
            for index, sick in enumerate(truth)
        }
        found = readers.agreement(readers.read(write_readings(tmp_path / "r.csv", words)), resamples=300)
        value, low, high = found["fleiss"]["kappa"]
        assert low < value < high
        assert len(found["cohen"]) == 3
        widths.append(high - low)
    assert widths[1] < widths[0]


def test_an_interval_of_patients_with_several_images_is_as_wide_as_one_of_the_patients(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    said = ["".join("yn"[int(sick == (chance.random() < 0.2))] for _ in range(3)) for sick in chance.random(40) < 0.4]
    once = readers.read(write_readings(tmp_path / "r.csv", {f"{n:02d}": word for n, word in enumerate(said)}))
    found = [readers.agreement(once, resamples=300)]
    copies = {f"{n:02d}-{copy}": word for n, word in enumerate(said) for copy in range(4)}
    several = readers.read(write_readings(tmp_path / "r.csv", copies))
    found += [readers.agreement(several, [image[:2] for image in several.images], resamples=300)]
    for one, other in zip(*([each["fleiss"], *each["cohen"]] for each in found), strict=True):
        assert other["kappa"] == pytest.approx(one["kappa"], abs=1e-3)


def test_the_command_takes_patients_from_a_column(tmp_path: Path) -> None:
    chance, lines = np.random.default_rng(4), []
    for patient in range(20):
        word, other = ("NORMAL", "PNEUMONIA")[patient % 2], ("NORMAL", "PNEUMONIA")[int(chance.random() < 0.5)]
        for image in range(5):
            lines += [f"p{patient}-{image},{reader},{said},p{patient}" for reader, said in (("a", word), ("b", other))]
    widths = []
    for keep in (True, False):
        path = tmp_path / f"{keep}.csv"
        rows = lines if keep else [line.rpartition(",")[0] for line in lines]
        path.write_text("\n".join(["image,reader,label" + ",patient" * keep, *rows]))
        _, low, high = json.loads(CliRunner().invoke(main, ["readers", str(path), "--json"]).stdout)["fleiss"]["kappa"]
        widths.append(high - low)
    assert widths[0] > 1.7 * widths[1]


def test_the_command_prints_writes_and_tells_json(tmp_path: Path) -> None:
    path = write_readings(tmp_path / "r.csv", {"1": "yyn", "2": "ynn", "3": "yn.", "4": "yyy", "5": "nnn"})
    result = CliRunner().invoke(main, ["readers", str(path), "--out", str(tmp_path / "labels.csv")])
    assert result.exit_code == 0, result.output
    assert "1 ties for adjudication: 3" in result.output
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert rows["1"] == {"image": "1", "label": "y", "votes": "n 1; y 2"}
    assert rows["3"]["label"] == ""
    found = json.loads(CliRunner().invoke(main, ["readers", str(path), "--json"]).stdout)
    assert found["adjudicated"]["2"] == "n"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("image,label\n1,y\n", "reader"),
        ("image,reader,label\n1,ann,\n", "line 2"),
        ("image,reader,label\n1,ann,y\n1,ann,n\n", "line 3: ann has read 1 twice"),
        ("", "columns"),
    ],
)
def test_a_wrong_file_is_one_sentence(text: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(RecipeError, match=word):
        readers.read(tmp_path / "r.csv")
    result = CliRunner().invoke(main, ["readers", str(tmp_path / "r.csv")])
    assert result.exit_code == 1
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("kappa", "word"),
    [(-0.1, "poor"), (0.0, "slight"), (0.3, "fair"), (0.6, "moderate"), (0.8, "substantial"), (1.0, "almost perfect")],
)
def test_a_kappa_in_words(kappa: float, word: str) -> None:
    assert readers.words(kappa) == word
