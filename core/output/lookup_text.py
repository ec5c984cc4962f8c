"""What `commonart lookup` prints for people: one block of lines for each record, safe for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from commonart.core.data.text import printable

# What a lookup by --image can find.
COVERS = (
    "Searched by its bytes and by its looks, which finds most copies that were resized or saved again, of flat drawings fewer; "
    "copies that were cropped, mirrored, turned, made grey or painted over are not found."
)
LINKS = ("source_url", "image_url", "author_url", "license_url")  # fields that hold an address


def fields(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (label, value) for what is known of a record that was found (`Match.as_json`); a label may come twice."""
    licence = " ".join(filter(None, (found.get("license", ""), found.get("license_url", ""))))
    seen = found.get("license_observed_at", "")
    yield "match", "exact" if found["match"] == "exact" else f"near: {found['bits']} of 64 bits differ"
    for label, value in (
        ("title", found.get("title")), ("author", found.get("author")),
        ("licence", f"{licence or 'not stated'}{f', observed {seen}' if seen else ''}"),
        ("page", found.get("source_url")), ("image", found.get("image_url")), ("sha256", found.get("sha256")),
        ("split", found.get("split")), ("opt-out", ", ".join(found.get("opt_out") or ())),
    ):  # fmt: skip
        if value:
            yield label, value
    for caption in found.get("captions") or ():
        by = caption.get("model") or "its source"
        yield "caption", f"{caption.get('lang', '')} ({by}): {caption['text']}"
    for member in found["features"]:
        yield "features", member
    for run in found["runs"]:
        yield "run", f"{run['run']}: {run['why']}"


def block(found: Mapping[str, Any]) -> str:
    """Return the lines of one record, or of what was removed before (`Removed.as_json`)."""
    if found["match"] == "removed":
        runs = (
            f"; was in the training data of {', '.join(found['runs'])}, which the removal does not change"
            if found["runs"]
            else ""
        )
        keys = ", ".join(found["keys"][:10]) + (
            f" and {len(found['keys']) - 10} more" if len(found["keys"]) > 10 else ""
        )
        return printable(f"removed from {found['where']} on {found['at']}: {keys}{runs}")
    lines = [printable(found["where"])]
    lines += [f"  {label:<9}{printable(value)}" for label, value in fields(found)]
    return "\n".join(lines)


def conflicts(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each image that several records state different licences for."""
    licences: dict[str, set[str]] = {}
    for each in found:
        if each.get("sha256"):
            licences.setdefault(each["sha256"], set()).add(each.get("license") or "no licence")
    return [
        f"the records of {sha256[:12]}... state different licences: {', '.join(sorted(stated))}."
        for sha256, stated in licences.items() if len(stated) > 1
    ]  # fmt: skip
