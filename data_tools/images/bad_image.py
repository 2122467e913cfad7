"""The errors for image files that cannot be stored."""


class BadImage(Exception):
    """A file that can't be stored. `str(error)` is the reason; details follow a colon."""

    def __init__(self, reason: str, is_image: bool = True) -> None:
        super().__init__(reason)
        self.is_image = is_image
        """False if the file is no image at all, rather than a broken one."""


class TruncatedJpeg(BadImage):
    """A JPEG whose bytes end before its end marker."""
