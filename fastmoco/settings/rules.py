"""The refusal of a wrong setting: one line that names the flag, the value and the allowed ones."""

from __future__ import annotations

from typing import Any

from data_tools.errors import UserError


def refuse(
    values: Any, rules: dict[str, bool], allowed: dict[str, str], prefix: str = ""
) -> None:
    """Raise UserError for the first field whose rule is False.

    rules: whether the value is good, by the field's name.
    allowed: the allowed values in words, by the field's name [default: a share from 0 to 1].
    """
    for name, good in rules.items():
        if not good:
            value = getattr(values, name)
            shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
            raise UserError(
                f"--{prefix}{flag(name)} {shown}: give {allowed.get(name, 'a share from 0 to 1')}"
            )


def flag(name: str) -> str:
    """Return the command-line flag of a field: lr_max -> lr-max."""
    return name.replace("_", "-")


def check_seed(seed: int) -> None:
    """Raise UserError for a seed outside 0 to 2**63 - 1."""
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed}: give a whole number from 0, below 2**63")
