"""--budget and --until: durations, times of day, and one-line errors for anything else."""

import datetime

import pytest

from data_tools.errors import UserError
from fastmoco.run_options import RunOptions
from fastmoco.training.budget import budget_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45m", 2700), ("2h30m", 9000), ("2h 30m", 9000), ("1.5h", 5400), ("1d", 86400)],
)
def test_durations(text, seconds):
    assert budget_seconds(RunOptions(budget=text)) == (seconds, f"--budget {text}")


def test_a_time_of_day():
    end = datetime.datetime.now() + datetime.timedelta(hours=2)
    seconds, said = budget_seconds(RunOptions(until=end.isoformat(timespec="seconds")))
    assert 7190 < seconds <= 7200 and said.startswith("--until 20")
    assert budget_seconds(RunOptions()) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": "2 hours"}, "--budget 2 hours: give a duration such as 90s, 45m or 2h30m"),
        ({"budget": "90"}, "--budget 90: give a duration"),
        ({"budget": "-5m"}, "--budget -5m: give a duration"),
        ({"budget": "0s"}, "--budget 0s: give a duration above 0"),
        ({"until": "tomorrow"}, "--until tomorrow: give a time such as 2026-12-01T08:00"),
        ({"until": "2020-01-01T00:00"}, "--until 2020-01-01T00:00: that time has passed"),
        ({"budget": "1h", "until": "2099-01-01T00:00"}, "--budget and --until: give one of them"),
    ],
)
def test_what_is_no_time_is_one_line(options, words):
    with pytest.raises(UserError) as raised:
        budget_seconds(RunOptions(**options))
    assert words in str(raised.value) and "\n" not in str(raised.value)
