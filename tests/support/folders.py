"""Contents of folders, to compare what two runs wrote."""

from pathlib import Path


def snapshot(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder, by its path there."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def images(folder: Path) -> list[Path]:
    """The JPEGs below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix == ".jpg")
