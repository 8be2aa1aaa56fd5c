"""What augmentation may do to a training image, and what it is never allowed to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import albumentations
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from compression import augment_policy
from compression.augment import Several, compose
from compression.recipe import AllowRecipe, AugmentPolicyRecipe, AugmentRecipe, Recipe, RecipeError, read
from tests.compression.test_recipe_and_data import RECIPE, changed
from tests.dicom_files import chest_pixels

SAFE = AugmentPolicyRecipe()
SIDE = 160


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return read(RECIPE)


def step(name: str, **parameters: Any) -> AugmentRecipe:
    return AugmentRecipe(name=name, p=1.0, parameters=parameters)


UNSAFE = [
    step("HorizontalFlip"),
    step("VerticalFlip"),
    step("RandomRotate90"),
    step("Transpose"),
    step("D4"),
    step("SquareSymmetry"),
    step("Affine", rotate=[-90, 90]),
    step("Affine", rotate=16),
    step("Affine", scale=[-1.0, -1.0]),
    step("Affine", scale={"x": [-1.0, 1.0], "y": [0.9, 1.1]}),
    step("Affine", shear=20),
    step("Affine", shear={"x": [-10, 10], "y": [-10, 10]}),
    step("Affine", rotate=12, scale={"x": [0.7, 1.3], "y": [0.7, 1.3]}),
    step("Rotate", limit=45),
    step("Rotate", limit=[0, 16]),
    step("Rotate"),
    step("SafeRotate", limit=[-20, -10]),
    step("ShiftScaleRotate", rotate_limit=45),
    step("Perspective"),
    step("Perspective", scale=[0.0, 0.2]),
    step("ElasticTransform", alpha=120, sigma=6),
    step("GridDistortion", distort_limit=[-1.0, 0.5]),
    step("ThinPlateSpline"),
    step("PiecewiseAffine"),
    step("OpticalDistortion"),
    step("RandomGridShuffle"),
    step("NoSuchThing"),
    step("OneOf", transforms=[{"name": "HorizontalFlip"}]),
    step("Rotate", limits=5),  # misspelled: albumentations takes its default, 90 degrees
]


@pytest.mark.filterwarnings("ignore:ShiftScaleRotate is a special case")
@pytest.mark.parametrize("unsafe", UNSAFE, ids=lambda each: f"{each.name}-{each.parameters}")
def test_a_chest_radiograph_is_never_flipped_or_turned(unsafe: AugmentRecipe) -> None:
    with pytest.raises(RecipeError, match=unsafe.name):
        compose([unsafe], SAFE, seed=0)


@pytest.mark.parametrize(
    "safe",
    [
        step("Affine", rotate=[-15, 15]),
        step("Rotate", limit=15),
        step("SafeRotate", limit=10),
        step("Perspective", scale=[0.0, 0.02]),
        step("ElasticTransform", alpha=5, sigma=10),
        step("GridDistortion", distort_limit=0.2),
        step("CoarseDropout"),
        step("RandomGamma"),
    ],
    ids=lambda each: each.name,
)
def test_what_is_bounded_is_accepted(safe: AugmentRecipe) -> None:
    compose([safe], SAFE, seed=0)


def test_turns_of_several_transforms_add_up() -> None:
    compose([step("Rotate", limit=8), step("Affine", rotate=7)], SAFE, seed=0)
    with pytest.raises(RecipeError, match=r"Rotate \(1\), Affine \(2\).*16.0 degrees"):
        compose([step("Rotate", limit=8), step("Affine", rotate=8)], SAFE, seed=0)


def test_containers_are_looked_into() -> None:
    nested = albumentations.OneOf([albumentations.Sequential([albumentations.HorizontalFlip(p=0.1)]),
                                   albumentations.NoOp()])  # fmt: skip
    with pytest.raises(RecipeError, match="HorizontalFlip"):
        augment_policy.check([nested], SAFE)


LIMITS = st.floats(0, 30)
NARROW = st.floats(0, 0.3)


def pipelines() -> st.SearchStrategy[list[AugmentRecipe]]:
    single = st.one_of(
        st.builds(lambda degrees: step("Rotate", limit=degrees, border_mode=0), LIMITS),
        st.builds(lambda degrees: step("SafeRotate", limit=degrees, border_mode=0), LIMITS),
        st.builds(
            lambda degrees, shear, narrow: step("Affine", rotate=[-degrees, degrees], shear=[-shear, shear],
                keep_ratio=False, scale={"x": [1 - narrow, 1 + narrow], "y": [1 - narrow, 1 + narrow]}),
            LIMITS, st.floats(0, 10), NARROW,
        ),
        st.builds(lambda narrow: step("RandomResizedCrop", size=[SIDE, SIDE], scale=[0.6, 1.0],
                                      ratio=[1 - narrow, 1 + narrow]), NARROW),
        st.builds(lambda scale: step("Perspective", scale=[0.0, scale]), st.floats(0, 0.05)),
        st.builds(lambda alpha, sigma: step("ElasticTransform", alpha=alpha, sigma=sigma),
                  st.floats(1, 200), st.floats(3, 20)),
        st.builds(lambda limit: step("GridDistortion", distort_limit=limit), NARROW),
        st.sampled_from([step("HorizontalFlip"), step("RandomRotate90"), step("Transpose"), step("D4")]),
    )  # fmt: skip
    return st.lists(single, min_size=1, max_size=3)


def tilt_of_the_bar(picture: np.ndarray) -> float:
    """Degrees from upright of the bright bar's long axis, by its second moments."""
    y, x = np.nonzero(picture > 127)
    covariance = np.cov(np.stack([x, y]))
    _, vectors = np.linalg.eigh(covariance)
    along = vectors[:, -1]
    return float(np.degrees(np.arctan2(abs(along[0]), abs(along[1]))))


@settings(max_examples=150, deadline=None)
@given(steps=pipelines(), seed=st.integers(0, 1000))
def test_no_accepted_pipeline_turns_an_image_by_more_than_15_degrees(steps: list[AugmentRecipe], seed: int) -> None:
    """An upright bar says how far it leans; halves that are marked say that nothing was mirrored."""
    try:
        augment = compose(steps, SAFE, seed)
    except RecipeError:
        return
    bar = np.zeros((SIDE, SIDE), dtype=np.uint8)
    bar[30:130, 60:66] = 255
    halves = np.ones((SIDE, SIDE), dtype=np.uint8)
    halves[:, SIDE // 2 :] = 2
    for _ in range(6):
        made = augment(image=bar, mask=halves)
        changed_bar, sides = made["image"], made["mask"]
        if (sides == 1).any() and (sides == 2).any():  # or crops have left one side only
            assert np.nonzero(sides == 1)[1].mean() < np.nonzero(sides == 2)[1].mean()
        if (changed_bar > 127).sum() > 200:  # most of it is still there
            assert tilt_of_the_bar(changed_bar) < 15 + 1  # a degree is a pixel and a half at its end


@pytest.mark.parametrize("flip", ["HorizontalFlip", "VerticalFlip"])
def test_anatomy_without_sides_may_be_flipped_where_the_recipe_says_so(flip: str) -> None:
    either = AugmentPolicyRecipe(anatomy="skin", may_flip=("left-right", "head-foot"))
    compose([step(flip)], either, seed=0)
    with pytest.raises(RecipeError, match="RandomRotate90"):
        compose([step("RandomRotate90")], either, seed=0)
    with pytest.raises(RecipeError, match="may_flip"):
        compose([step(flip)], AugmentPolicyRecipe(anatomy="skin"), seed=0)


def test_a_chest_cannot_be_declared_to_have_no_sides(tmp_path: Path) -> None:
    path = changed(tmp_path, "[prune]", '[augment_policy]\nmay_flip = ["left-right"]\n\n[prune]')
    with pytest.raises(RecipeError, match=r"may_flip.*chest has sides"):
        read(path)


def test_an_exception_needs_a_reason_and_a_transform_that_is_there(tmp_path: Path) -> None:
    path = changed(tmp_path, "[prune]",
                   '[augment_policy]\nallow = [{ transform = "HorizontalFlip", reason = "" }]\n\n[prune]')  # fmt: skip
    with pytest.raises(RecipeError, match="reason"):
        read(path)
    allowed = AugmentPolicyRecipe(allow=(AllowRecipe("HorizontalFlip", "knees are paired and labeled by side"),))
    compose([step("HorizontalFlip")], allowed, seed=0)
    with pytest.raises(RecipeError, match=r"names HorizontalFlip, which no"):
        compose([step("RandomGamma")], allowed, seed=0)
    (words,) = augment_policy.exceptions(allowed)
    assert "HorizontalFlip" in words
    assert "knees are paired" in words


def test_from_two_to_three_transforms_are_drawn_for_an_image() -> None:
    """Each adds one to the image, so that the image counts them."""
    steps = [step("RandomBrightnessContrast", brightness_limit=[0.1, 0.1], contrast_limit=[0, 0]) for _ in range(5)]
    augment = compose(steps, replace(SAFE, some_of=(2, 3)), seed=0)
    assert isinstance(augment.transforms[0], Several)
    dark = np.full((8, 8), 10, dtype=np.uint8)
    added = [round((int(augment(image=dark)["image"][0, 0]) - 10) / 25.5) for _ in range(60)]
    assert set(added) == {2, 3}


def test_what_is_likelier_is_drawn_more_often() -> None:
    bright = {"brightness_limit": [0.5, 0.5], "contrast_limit": [0, 0]}
    steps = [AugmentRecipe("RandomBrightnessContrast", 0.9, bright), AugmentRecipe("RandomGamma", 0.1, {})]
    augment = compose(steps, replace(SAFE, some_of=(1, 1)), seed=0)
    image = np.full((8, 8), 100, dtype=np.uint8)
    bright_ones = sum(int(augment(image=image)["image"][0, 0]) > 200 for _ in range(200))
    assert 160 < bright_ones < 198


def test_more_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(RecipeError, match="some_of"):
        compose([step("RandomGamma")], replace(SAFE, some_of=(2, 3)), seed=0)


def test_augmentation_keeps_the_heart_where_it_is(recipe: Recipe) -> None:
    """An image that is bright on one side only stays so, whatever the recipe's transforms do."""
    image = np.full((224, 224), 60, dtype=np.uint8)
    image[:, 140:] = 200
    augment = compose(recipe.augment, recipe.augment_policy, seed=1)
    for _ in range(60):
        changed_image = augment(image=image)["image"]
        assert changed_image.shape == (224, 224)
        assert changed_image[:, -60:].mean() > changed_image[:, :60].mean()


def test_augmentation_is_repeatable(recipe: Recipe) -> None:
    image = chest_pixels(224, 224, 8, seed=1)
    one, two = (
        compose(recipe.augment, recipe.augment_policy, seed=3)(image=image)["image"] for _ in range(2)
    )  # fmt: skip
    assert np.array_equal(one, two)


def test_levels_are_rounded_and_cut_off_where_they_are_augmented() -> None:
    """Stages keep them as the device has them, and of deep images some lie beyond black and white."""
    made = compose([step("NoOp")], SAFE, seed=0)(
        image=np.array([[-40.0, 0.4, 0.6], [127.49, 254.7, 900.0]], dtype=np.float32),
        mask=np.array([[0, 1, 2], [3, 4, 5]], dtype=np.uint8),
    )
    assert made["image"].dtype == np.uint8
    assert made["image"].tolist() == [[0, 0, 1], [127, 255, 255]]
    assert made["mask"].tolist() == [[0, 1, 2], [3, 4, 5]]


# --- what lies below a chest ----------------------------------------------------------------------------------------


def test_an_abdomen_comes_below_a_squeezed_chest_and_is_no_lung() -> None:
    pixels = chest_pixels(SIDE, SIDE, bits=8, seed=0)
    mask = np.ones((SIDE, SIDE), np.uint8)
    share = 0.3
    transform = compose([step("AbdomenBelow", share=[share, share])], SAFE, 1)
    made = transform(image=pixels, mask=mask)
    rows = SIDE - round(SIDE * share)
    assert made["image"].shape == pixels.shape
    assert made["image"].dtype == np.uint8
    assert made["mask"][:rows].all()
    assert not made["mask"][rows:].any()
    squeezed = cv2.resize(pixels, (SIDE, rows), interpolation=cv2.INTER_AREA)
    seam = round(SIDE * 0.04)
    assert np.array_equal(made["image"][: rows - seam], squeezed[: rows - seam])
    below = [transform(image=pixels, mask=mask)["image"][rows:] for _ in range(2)]
    assert not np.array_equal(*below)


def test_the_squeeze_widens_the_tilt_of_what_was_turned_before_it() -> None:
    turn, squeeze = step("Rotate", limit=10), step("AbdomenBelow", share=[0.1, 0.45])
    compose([squeeze, turn], SAFE, 1)
    with pytest.raises(RecipeError, match=r"tilted by 17\.\d degrees"):
        compose([turn, squeeze], SAFE, 1)
