"""The policy of prep: which images it copies, re-encodes, shrinks or quarantines, and how it works.

Imports only the standard library, because the command line reads its flags from here.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from data_tools.errors import UserError

# The images that are written do not depend on these. A manifest and a journal record the size of
# the parts beside the policy.
NOT_DECISIVE = ("workers", "strict", "shard_size", "engine", "ray_address")
MOST_MB = 1e6  # of source images per part


@dataclass(frozen=True)
class Policy:
    """Settings of `prep`. The defaults copy every image that a decoder can read as it is, up to
    2048 pixels."""

    # 2048 keeps web photographs unchanged (ImageNet's median longer side is 500 pixels) and shrinks
    # camera originals. Without a limit, one of them would decide the memory for all images: the
    # official FFCV loader pins max height x max width x 3 bytes for each image in flight.
    max_side: int | None = 2048
    """Largest longer side, in pixels. Larger images are shrunk. Give None for no limit."""

    short_side: int | None = None
    """Largest shorter side, in pixels. Larger images are shrunk [default: no limit]."""

    min_side: int | None = None
    """Smallest shorter side, in pixels. Smaller images are quarantined [default: no limit]."""

    quality: int = 90
    """JPEG quality of the images that are re-encoded, 1 to 100."""

    reencode: Literal["never", "needed", "always"] = "needed"
    """Choice of the images that are re-encoded as JPEG: needed copies clean JPEGs and re-encodes
    the rest, never quarantines the rest, always re-encodes all."""

    raw_fraction: float = 0.0
    """Share of the images, 0 to 1, that is stored as uncompressed RGB: fast to read, but large."""

    check: Literal["structure", "decode"] = "structure"
    """Check of a JPEG before it is copied: structure reads all markers to its end, decode also
    every pixel."""

    max_pixels: int = 1 << 27
    """Images with more pixels are quarantined, because decoding them could fill the memory."""

    strict: bool = False
    """Stop at the first image that would be quarantined."""

    workers: int = 0
    """Number of threads. It does not change the output [default: one per core]."""

    shard_size: float = 128
    """MB of source images per part. Each part is one file, except in a beton."""

    engine: Literal["threads", "ray"] = "threads"
    """Place of the work: threads of this process, or a Ray cluster."""

    ray_address: str = ""
    """Address of a running Ray cluster [default: start one on this machine]."""

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
            ("shard-size", 0 < self.shard_size <= MOST_MB, "MB above 0"),
            ("engine", self.engine in ("threads", "ray"), "threads or ray"),
        ]
        for name, good, allowed in checks:
            if not good:
                value = getattr(self, name.replace("-", "_"))
                raise UserError(f"--{name} {value}: give {allowed}")
        if self.ray_address and self.engine != "ray":
            raise UserError("--ray-address goes with --engine ray")

    @property
    def part_bytes(self) -> int:
        """Bytes of source images per part."""
        return round(self.shard_size * 1e6)

    def decisive(self) -> dict[str, Any]:
        """Return the fields that decide the images' bytes, as JSON values: all but NOT_DECISIVE."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_DECISIVE}
