"""Notes that prep prints on a dataset's images: 16-bit values that are all low, and extra pages.

They are counted per part and summed over the parts, so they do not depend on the order of work.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from data_tools.images.prepare_image import Prepared

# An image of 16 bits whose values fit into fewer bits than this gets a note.
FULL = 16
WHITE = 65535


@dataclass
class ImageNotes:
    """Counts over a part, or over a dataset."""

    wide: int = 0
    """Images of 16 bits per sample."""
    narrow: int = 0
    """Number of these images whose values would fit into 15 bits or fewer."""
    highest: int = -1
    """The greatest value in the narrow images."""
    stacks: int = 0
    """Images whose file holds several pages of one size."""
    fewest_pages: int = 0
    """Fewest pages in one of these files."""
    most_pages: int = 0
    """Most pages in one of these files."""
    trimmed: Counter[str] = field(default_factory=Counter)
    """Number of JPEGs that were copied without some bytes at the end, or with an end marker that
    they lacked, by which of these it was (see images/jpeg_end.py)."""

    def add(self, image: Prepared) -> None:
        if image.trimmed:
            self.trimmed[image.trimmed] += 1
        if image.highest >= 0:
            self.wide += 1
            if image.highest.bit_length() < FULL:
                self.narrow += 1
                self.highest = max(self.highest, image.highest)
        if image.pages > 1:
            self._add_stacks(1, image.pages, image.pages)

    def merge(self, other: ImageNotes) -> None:
        self.trimmed.update(other.trimmed)
        self.wide += other.wide
        self.narrow += other.narrow
        self.highest = max(self.highest, other.highest)
        if other.stacks:
            self._add_stacks(other.stacks, other.fewest_pages, other.most_pages)

    def _add_stacks(self, stacks: int, fewest: int, most: int) -> None:
        self.fewest_pages = min(self.fewest_pages, fewest) if self.stacks else fewest
        self.most_pages = max(self.most_pages, most)
        self.stacks += stacks

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "trimmed": dict(sorted(self.trimmed.items()))}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ImageNotes:
        """The notes in a record. {}: an older journal, which did not count them."""
        return cls(**{**values, "trimmed": Counter(values.get("trimmed", {}))})

    def lines(self) -> list[str]:
        """The notes as lines of plain text; empty if there is nothing to say."""
        lines = []
        if self.narrow:
            levels = (self.highest * 255 + WHITE // 2) // WHITE + 1
            lines.append(
                f"warning: {self.narrow:,} of {self.wide:,} images with 16 bits per sample hold no "
                f"value above {self.highest:,}: {WHITE:,} counts as white, so at most {levels} of "
                "256 levels are left of them; scale them to 16 bits before prep"
            )
        if self.stacks:
            pages = f"{self.most_pages:,} pages each"
            if self.fewest_pages < self.most_pages:
                pages = f"{self.fewest_pages:,} to {self.most_pages:,} pages each"
            files = "TIFF file holds" if self.stacks == 1 else "TIFF files hold"
            lines.append(
                f"warning: {self.stacks:,} {files} several pages of one size ({pages}): only the "
                "first page is stored"
            )
        return lines
