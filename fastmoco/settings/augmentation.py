"""The distribution that both views of an image are drawn from, and its named versions.

Numbers come from the papers and the official code (main_moco.py and moco/loader.py of
facebookresearch/moco).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from fastmoco.settings.rules import refuse

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PAPER_SIGMA = (0.1, 2.0)  # pixels of a 224-pixel view (2003.04297)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@dataclass(frozen=True)
class Augmentation:
    """The distribution that both views of an image are drawn from. Probabilities are per view."""

    scale: tuple[float, float] = (0.2, 1.0)
    """Smallest and largest share of the image's area that a crop covers."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width of a crop divided by its height. Their logarithm is uniform."""
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.4)
    """Strengths of the changes in brightness, contrast, saturation and hue, in a random order."""
    jitter_p: float = 1.0
    """Probability of the colour jitter."""
    gray_p: float = 0.2
    """Probability of converting the view to grey."""
    gray_first: bool = field(default=True, metadata={
        "off": "Convert to grey after the colour jitter (v2) instead of before it (v1)."
    })
    """Convert to grey before the colour jitter (v1) instead of after it (v2)."""
    blur_p: float = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = PAPER_SIGMA
    """Smallest and largest sigma of the blur, in pixels of the view."""
    flip_p: float = 0.5
    """Probability of a horizontal flip."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of each channel, for pixels from 0 to 1. It is subtracted last."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of each channel. The last step divides by it."""

    def check(self) -> None:
        """Raise UserError if a value is out of range."""
        rules = {
            "scale": 0 < self.scale[0] <= self.scale[1] <= 1,
            "ratio": 0 < self.ratio[0] <= self.ratio[1] < math.inf,
            "jitter": all(0 <= x < math.inf for x in self.jitter) and self.jitter[3] <= 0.5,
            "jitter_p": 0 <= self.jitter_p <= 1,
            "gray_p": 0 <= self.gray_p <= 1,
            "blur_p": 0 <= self.blur_p <= 1,
            "blur_sigma": 0 <= self.blur_sigma[0] <= self.blur_sigma[1] < math.inf,
            "flip_p": 0 <= self.flip_p <= 1,
            "mean": all(math.isfinite(x) for x in self.mean),
            "std": all(0 < x < math.inf for x in self.std),
        }
        allowed = {
            "scale": "two shares of the area, above 0 and up to 1, the smaller first",
            "ratio": "two ratios above 0, the smaller first",
            "jitter": "four strengths from 0, the last (hue) up to 0.5",
            "blur_sigma": "two sigmas from 0, the smaller first",
            "mean": "three finite numbers",
            "std": "three numbers above 0",
        }
        refuse(self, rules, allowed, "augmentation.")

    def for_resolution(self, size: int) -> tuple[Augmentation, str | None]:
        """Return the augmentation for views of `size` pixels, and a line if its blur differs.

        The papers' sigma of 0.1 to 2 is for 224 pixels. Smaller views scale it in proportion, and
        views below 64 pixels have no blur, as in the official CIFAR-10 demo. Any other range is
        the user's own choice and stays unchanged.
        """
        if self.blur_p == 0 or size >= 224 or self.blur_sigma != PAPER_SIGMA:
            return self, None
        if size < 64:
            return replace(self, blur_p=0.0), (
                f"no blur: views of {size} pixels are too small for it (--augmentation.blur-sigma "
                "with a range of its own brings it back)"
            )
        most = round(PAPER_SIGMA[1] * size / 224, 2)
        return replace(self, blur_sigma=(PAPER_SIGMA[0], most)), (
            f"blur's sigma goes up to {most:g} pixels instead of {PAPER_SIGMA[1]:g}, in proportion "
            f"to views of {size} (--augmentation.blur-sigma with another range is taken as it is)"
        )


AUGMENT_V1 = Augmentation()
AUGMENT_V2 = replace(
    AUGMENT_V1, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, gray_first=False, blur_p=0.5
)
# The official CIFAR-10 demo: v2 without blur, smaller crops.
AUGMENT_CIFAR = replace(
    AUGMENT_V2, scale=(0.08, 1.0), blur_p=0.0, mean=CIFAR_MEAN, std=CIFAR_STD
)
AUGMENTATIONS = {"v1": AUGMENT_V1, "v2": AUGMENT_V2, "cifar": AUGMENT_CIFAR}
