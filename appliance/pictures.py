"""The page's pictures of a reading, as PNG files."""

from __future__ import annotations

import numpy as np

from appliance import render
from appliance.interpret import Source
from appliance.result import Prediction
from appliance.volume import Volume

_LONGEST = 1024
_LONGEST_OF_A_SLICE, _TALLEST_STRIP = 320, 30_000  # browsers show no picture that is much taller


def previews(source: Source, prediction: Prediction) -> dict[str, bytes]:
    """``image.png``; ``heat-<n>.png`` of each finding whose map is shown; ``outline.png`` where segments were drawn.

    All cover each other. Of a volume they are strips: its axial slices one below the other, the first at the feet.
    """
    if isinstance(source, Volume):
        return _of_volume(source, prediction)
    picture = render.display(source, _LONGEST)
    files = {"image.png": render.png(picture)}
    shape = picture.shape[0], picture.shape[1]
    for index, finding in enumerate(prediction.findings):
        if finding.label in prediction.activation_maps:
            overlay = render.heat(prediction.activation_maps[finding.label], shape)
            files[f"heat-{index}.png"] = render.png(overlay)
    if prediction.mask is not None:
        files["outline.png"] = render.png(render.outline(prediction.mask[0], prediction.segments, shape))
    return files


def _of_volume(volume: Volume, prediction: Prediction) -> dict[str, bytes]:
    spacing = render.plane_spacing(volume, 0)
    longest = max(min(_LONGEST_OF_A_SLICE, _TALLEST_STRIP // len(volume.pixels)), 32)
    slices = [render.square(plane, spacing, longest) for plane in volume.pixels]
    files = {"image.png": render.png(render.gray(np.concatenate(slices), render.levels(volume)))}
    if prediction.mask is not None:
        # Finer than the slices often are: an outline of whole voxels would look like a staircase.
        shape = render.squared(volume.pixels.shape[1:], spacing, longest, enlarge=True)
        masks = volume.straighten(prediction.mask)
        lines = [render.outline(mask, prediction.segments, shape) for mask in masks]
        files["outline.png"] = render.png(np.concatenate(lines))
    return files
