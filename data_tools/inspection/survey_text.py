"""The lines that `fastmoco inspect` prints about a survey."""

from __future__ import annotations

import numpy as np

from data_tools.inspection.survey import Survey
from data_tools.quantities import human

CLASSES = 5  # number of the largest and of the smallest classes that are named


def lines(found: Survey) -> list[str]:
    """The survey in lines of text."""

    def listed(counts: dict[str, int]) -> str:
        return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"

    def spread(name: str, values: list[float], form: str) -> str:
        return f"  {name:<14}" + "".join(f"{format(value, form):>9}" for value in values)

    size = f"{human(found.data_bytes)} in {found.files:,} file{'s' * (found.files > 1)}"
    out = [f"{found.path}: {found.samples:,} images, {', '.join(found.formats)}, {size}"]
    if found.source:
        out.append(f"from {found.source}")
    out += class_lines(found)
    heads = ("least", "5 %", "25 %", "median", "75 %", "95 %", "most")
    out.append(f"  {'':<14}" + "".join(f"{head:>9}" for head in heads))
    out.append(spread("height", found.height, ",.0f"))
    out.append(spread("width", found.width, ",.0f"))
    out.append(spread("shorter side", found.shorter_side, ",.0f"))
    out.append(spread("width/height", found.aspect, ".2f"))
    out.append(spread("kB per image", [value / 1e3 for value in found.bytes], ",.1f"))
    out.append(f"stored as: {listed(found.kinds)}; {found.megapixels:,.0f} megapixels in all")
    out.append(f"of {found.sampled:,} decoded: {listed(found.jpegs)}")
    rgb = [" ".join(f"{value:.3f}" for value in values) for values in (found.mean, found.std)]
    out.append(f"  mean {rgb[0]}, std {rgb[1]} (R G B, 0 to 1)")
    if found.undecodable:
        out.append(f"  {found.undecodable:,} did not decode: fastmoco verify names them")
    if found.trimmed:
        out.append(f"copied, pixel for pixel: {listed(found.trimmed)}")
    if found.kept >= 0:
        out.append(f"stored as they came: {found.kept:,}; re-encoded: {listed(found.reencoded)}")
    unsought = found.duplicates < 0
    out.append("duplicates: " + ("not looked for, too many" if unsought else
                                 f"{found.duplicates:,}"))
    out += [f"also in {other}: {count:,}" for other, count in found.leaks.items()]
    if found.quarantined:
        out.append(f"quarantined: {sum(found.quarantined.values()):,}")
        for reason, count in found.quarantined.items():
            keys = found.examples.get(reason, [])
            more = ", ..." if count > len(keys) else ""
            out.append(f"  {reason} {count:,}: {', '.join(keys)}{more}")
    return out + found.notes


def class_lines(found: Survey) -> list[str]:
    if not found.classes:
        return ["no labels"]
    counts = sorted(found.classes.items(), key=lambda item: (-item[1], item[0]))
    values = [count for _, count in counts]
    head = (f"{len(counts):,} classes of {min(values):,} to {max(values):,} images "
            f"(median {np.median(values):,.0f})")
    if found.unlabelled:
        head += f"; {found.unlabelled:,} unlabelled"
    if len(counts) <= 2 * CLASSES:
        shown = [counts]
    else:
        shown = [counts[:CLASSES], counts[-CLASSES:]]
    texts = [", ".join(f"{name} {count:,}" for name, count in part) for part in shown]
    return [head, "  " + " ... ".join(texts)]

