"""What `prep` keeps, re-encodes, resizes and quarantines. Standard library only: it is the CLI."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from data_tools.errors import UserError

# The output's bytes don't depend on how many threads work, or whether a bad image stops them.
NOT_DECISIVE = ("workers", "strict")


@dataclass(frozen=True)
class Policy:
    """prep's flags. The defaults change nothing that a decoder can read as it is."""

    # 2048 leaves web photographs (ImageNet's median longer side is 500 pixels) untouched and caps
    # camera originals, whose size would rule everyone's memory and decode time: the official FFCV
    # loader pins max height x max width x 3 bytes for each image in flight.
    max_side: int | None = 2048
    """Longer side, in pixels, above which an image is shrunk (antialiased). None: no limit."""

    short_side: int | None = None
    """Shorter side, in pixels, above which an image is shrunk. None: no limit."""

    min_side: int | None = None
    """Images whose shorter side has fewer pixels than this are quarantined. None: none are."""

    quality: int = 90
    """JPEG quality, 1 to 100, of the images that are re-encoded."""

    reencode: Literal["never", "needed", "always"] = "needed"
    """needed: copy clean JPEGs byte for byte. never: quarantine the rest. always: re-encode all."""

    raw_fraction: float = 0.0
    """Share of the images, 0 to 1, stored as plain RGB: lossless, fast to read, large."""

    check: Literal["structure", "decode"] = "structure"
    """How far a JPEG is read before it is copied: all its markers to its end, or every pixel."""

    max_pixels: int = 1 << 27
    """Images of more pixels are quarantined unread: decoded, they could fill the memory."""

    strict: bool = False
    """Stop at the first image that would be quarantined."""

    workers: int = 0
    """Threads that read and re-encode; 0: one a core. Never changes the output."""

    def __post_init__(self) -> None:
        def side(value: int | None) -> bool:
            return value is None or 1 <= value <= 65500

        checks = [
            ("max-side", side(self.max_side), "1 to 65500"),
            ("short-side", side(self.short_side), "1 to 65500"),
            ("min-side", side(self.min_side), "1 to 65500"),
            ("quality", 1 <= self.quality <= 100, "1 to 100"),
            ("reencode", self.reencode in ("never", "needed", "always"), "never, needed or always"),
            ("raw-fraction", 0 <= self.raw_fraction <= 1, "0 to 1"),
            ("check", self.check in ("structure", "decode"), "structure or decode"),
            ("max-pixels", self.max_pixels >= 1, "1 or more"),
            ("workers", self.workers >= 0, "0 (all cores) or more"),
        ]
        for name, good, allowed in checks:
            if not good:
                value = getattr(self, name.replace("-", "_"))
                raise UserError(f"--{name} {value}: give {allowed}")

    def decisive(self) -> dict[str, Any]:
        """The fields that decide the output's bytes, as JSON values: all but NOT_DECISIVE."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_DECISIVE}
