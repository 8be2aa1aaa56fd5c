"""What ``check-data`` and ``readers`` found, as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from compression import clipping, confounders, normalization

_SHOWN = 10


def report(found: dict[str, Any]) -> str:
    """All of it, the problems last, where they are read."""
    lines: list[str] = []
    for name, each in found["sets"].items():
        lines += _set(name, each)
    lines += _duplicates(found["duplicates"])
    lines += problems(found["problems"])
    lines.append(f"{found['seconds']} s, {found['memory_mb']} MB at most")
    return "\n".join(lines)


def cases(found: dict[str, Any]) -> str:
    """What ``check-data`` found of a segmentation's cases."""
    lines: list[str] = []
    for name, each in found["sets"].items():
        lines += ["", f"{name}   files {each['files'][:16]}", f"{each['cases']} cases of {each['patients']} patients"]
        sizes = ", ".join(f"{size} ({count})" for size, count in each["sizes"].items())
        lines.append(f"most frequent sizes: {sizes}")
        lines += table(("segment", "share of pixels"), [(n, f"{s:.2%}") for n, s in each["share_of_segments"].items()])
        if "clipping" in each:
            lines += ["", clipping.in_words(each["clipping"])]
        if each.get("normalization"):
            lines.append(normalization.in_words(each["normalization"]))
        if "bands" in each:
            lines += ["", *_bands(each["bands"])]
            lines.append(
                f"parameters per training case: {each['parameters_per_case']:,}; each of its pixels has a label, so a "
                "U-Net takes more of them than a classifier"
            )
    lines += problems(found["problems"])
    lines.append(f"{found['seconds']} s")
    return "\n".join(lines)


def agreement(found: dict[str, Any], ties: Sequence[str]) -> str:
    """Kappas of readers, and the images that they leave open."""
    rows: list[tuple[object, ...]] = [
        ("all (Fleiss)", found["images"], "", kappa(found["fleiss"]["kappa"]), found["fleiss"]["in_words"])
    ]
    rows += [
        (" and ".join(each["readers"]), each["images"], "" if each["agreed"] is None else f"{each['agreed']:.1%}",
         kappa(each["kappa"]), each["in_words"])
        for each in found["cohen"]
    ]  # fmt: skip
    lines = [*table(("readers", "images", "agreed", "kappa [95 %]", "Landis & Koch"), rows), ""]
    lines.append(f"{len(ties)} ties for adjudication" + (f": {', '.join(ties[:_SHOWN])}" if ties else ""))
    if found["read_once"]:
        lines.append(f"{found['read_once']} images were read once only")
    return "\n".join(lines)


def kappa(triple: Sequence[float | None]) -> str:
    value, low, high = ("-" if each is None else f"{each:.3f}" for each in triple)
    return f"{value} [{low}, {high}]"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a table: columns as wide as their widest cell, numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[number]) for row in [list(header), *cells]) for number in range(len(header))]
    numeric = [
        bool(rows) and all(isinstance(row[number], int | float) for row in rows) for number in range(len(header))
    ]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        return "  ".join(padded).rstrip()

    return [line(header), "  ".join("-" * width for width in widths), *(line(row) for row in cells)]


def _set(name: str, found: dict[str, Any]) -> Iterator[str]:
    counts = found["counts"]
    yield f"\n{name}   version {found['version'][:16]}, of its files {found['files'][:16]}"
    yield (
        f"{counts['listed']} listed, {counts['readable']} usable, {counts['left_out_as_duplicates']} left out as "
        f"duplicates, {counts['used']} used, {counts['patients']} patients"
    )
    yield clipping.in_words(found["clipping"])
    if "normalization" in found:
        yield normalization.in_words(found["normalization"])
    each = counts["images_per_patient"]
    yield (
        f"images per patient: median {each['median']:g}, most {each['most']} ({each['patient_with_most']}); "
        f"{counts['patients_with_several_labels']} patients have images with different labels\n"
    )
    rows = [
        (f"{column}: {value or '(empty)'}", number["images"], number["patients"])
        for column, values in counts["by"].items()
        for value, number in values.items()
    ]
    yield from table(("", "images", "patients"), rows)
    if "weighting" in found:
        yield ""
        weighting = found["weighting"]
        yield f"imbalance {weighting['imbalance']} to 1; weights by inverse frequency: {weighting['in_words']}"
        yield f"(pos_weight {weighting['pos_weight']}, which training takes by itself)\n"
        yield from _bands(found["bands"])
    yield from _confounders(found["confounders"])
    yield from _label_errors(found["label_errors"])
    if "readers" in found:
        yield ""
        yield agreement(found["readers"], list(found["readers"]["ties"]))


def _bands(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    for what, number in found.items():
        yield f"{what}: {number['value']:,}: {number['in_words']}"
        yield f"    ({number['source']})"


def _confounders(found: dict[str, Any]) -> Iterator[str]:
    if not found:
        return
    yield f"\nwhat tells the label by itself ({found['images']} images)"
    yield from table(("statistic", "of", "AUC [95 %]", "positive", "negative", "known", ""), confounders.rows(found))
    yield from (f"not judged: {name}: {reason}" for name, reason in found["unjudged"].items())
    for kind, area in found["together"].items():
        if area is not None:
            yield f"all statistics of the {kind} image together: AUC {area:.3f} on other patients"


def _label_errors(found: dict[str, Any]) -> Iterator[str]:
    if "skipped" in found:
        yield f"\nlabels not judged: {found['skipped']}"
        return
    yield (
        f"\nlabels that look wrong: {len(found['suspects'])} images, estimated share "
        f"{found['estimated_share_wrong']:.1%} ({found['features']}, AUC {found['auc_of_the_simple_model']:.3f})"
    )
    rows = [
        (each["file"], each["given"], each["suggested"], f"{each['probability']:.3f}", f"{each['margin']:.3f}")
        for each in found["suspects"][:_SHOWN]
    ]
    if rows:
        yield from table(("file", "label", "looks like", "probability", "margin"), rows)


def _duplicates(found: dict[str, Any]) -> Iterator[str]:
    distances = found["nearest_other_patient"]
    yield "\nduplicates"
    limit = found["limit"]
    yield f"{len(found['exact'])} groups of equal pixels, {found['near_count']} near pairs (distance below {limit})"
    percentiles = ", ".join(
        f"{value:.3f} ({share:g} %)"
        for share, value in zip(distances["percentiles"], distances["distances"], strict=True)
    )
    yield "copies made on purpose, median and 95 % of their distance here:"
    for name, (median, most, _) in found["copies_made_on_purpose"].items():
        yield f"    {name}: {median:.3f}, {most:.3f}{'' if most < limit else ' (not all of these are found)'}"
    yield f"nearest image of another patient, percentiles: {percentiles}"
    rows = [
        (
            " = ".join(pair["files"]),
            "/".join(pair["splits"]),
            "same" if pair["same_patient"] else "two",
            pair["distance"],
        )
        for pair in found["near"][:_SHOWN]
    ]
    if rows:
        yield from table(("pair", "splits", "patient", "distance"), rows)


def problems(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield ""
    for each in found:
        yield f"{each['severity'].upper()}: {each['data_set']}: {each['what']}: {each['count']}"
        yield from (f"    {example}" for example in each["examples"])
        if each["count"] > len(each["examples"]) > 0:
            yield f"    and {each['count'] - len(each['examples'])} more"
        yield f"    -> {each['hint']}"
    numbers = {name: sum(each["severity"] == name for each in found) for name in ("error", "warning", "note")}
    yield "\n" + ", ".join(f"{number} {name}{'' if number == 1 else 's'}" for name, number in numbers.items())
