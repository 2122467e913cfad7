"""The settings of prep: a dataset and a journal store only those that decide the images."""

from dataclasses import replace

import pytest

from data_tools.errors import UserError
from data_tools.policy import Policy
from data_tools.preparation.parts import Job

STORED = {
    "max_side": 2048, "short_side": None, "min_side": None, "quality": 90, "reencode": "needed",
    "raw_fraction": 0.0, "check": "structure", "max_pixels": 1 << 27,
}


def test_how_prep_works_is_not_stored() -> None:
    """Datasets and journals of older releases hold exactly these fields: they must still match."""
    policy = Policy(workers=3, strict=True, shard_size=0.5, engine="ray", ray_address="auto")
    assert policy.decisive() == Policy().decisive() == STORED
    header = Job("f", policy, ("beton",), policy.part_bytes, 1 << 21).header()
    assert header == {
        "fingerprint": "f", "policy": STORED, "formats": ["beton"], "part_bytes": 500_000,
        "page_size": 1 << 21,
    }
    assert Policy().part_bytes == 128_000_000


@pytest.mark.parametrize(("field", "value"), [
    ("shard_size", 0.0), ("shard_size", float("nan")), ("engine", "dask"), ("ray_address", "auto"),
])
def test_wrong_settings_of_the_work_are_refused(field: str, value: object) -> None:
    with pytest.raises(UserError, match=f"^--{field.replace('_', '-')}"):
        replace(Policy(), **{field: value})  # type: ignore[arg-type]
