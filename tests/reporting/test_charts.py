"""Charts: round ticks around the values, points in place, and no text that breaks the page."""

import re
from xml.etree import ElementTree

import pytest

from fastmoco.reporting.charts import (
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    Series,
    line_chart,
    scatter,
    thinned,
    ticks,
)


def svg(figure):
    return ElementTree.fromstring(figure).find("svg")


def line(figure):
    points = svg(figure).find("polyline").get("points").split()
    return [tuple(map(float, p.split(","))) for p in points]


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (3.2, 8.3, [2, 4, 6, 8, 10]),
        (0, 0.03, [0, 0.01, 0.02, 0.03]),
        (-3.7, 1.9, [-4, -2, 0, 2]),
        (5, 5, [4.5, 4.75, 5, 5.25, 5.5]),
        (0, 12345, [0, 5000, 10000, 15000]),
    ],
)
def test_ticks_are_round_and_reach_around_the_values(least, most, expected):
    assert ticks(least, most, 4) == pytest.approx(expected)


def test_a_line_goes_through_its_points():
    figure = line_chart("t", [Series("s", [(0, 0), (5, 1), (10, 0.5)])], "epoch", str)
    (a, b, c) = line(figure)
    assert a[0] == LEFT and c[0] == WIDTH - RIGHT and b[0] == (LEFT + WIDTH - RIGHT) / 2
    assert c[1] == pytest.approx((a[1] + b[1]) / 2, abs=0.1) and b[1] < c[1] < a[1] < HEIGHT
    titles = [t.text for t in svg(figure).iter("title")]
    assert titles == ["s 0, epoch 0", "s 1, epoch 5", "s 0.5, epoch 10"]


def test_points_that_are_not_finite_are_left_out():
    figure = line_chart("t", [Series("s", [(0, 1), (1, float("nan")), (2, 3)])], "x", str)
    assert len(line(figure)) == 2 and "nan" not in figure
    assert "polyline" not in line_chart("t", [Series("s", [(0, float("inf"))])], "x", str)


def test_a_level_is_within_the_axis_and_named():
    figure = line_chart("t", [Series("s", [(0, 1), (1, 2)])], "x", str, ("a guess", 9.0))
    level = next(e for e in svg(figure).iter("line") if e.get("class") == "level")
    assert 0 <= float(level.get("y1")) < min(y for _, y in line(figure))
    assert any("a guess 9" in (t.text or "") for t in svg(figure).iter("text"))


def test_names_are_escaped():
    bad = "<script>&\""
    for figure in (line_chart(bad, [Series(bad, [(0, 1)])], bad, str, (bad, 1.0)),
                   scatter(bad, bad, [(0, 0, "k", bad), (1, 1, "k", "b")], "")):
        assert "<script>" not in figure
        svg(figure)  # well-formed


def test_many_points_are_thinned_with_their_ends():
    points = [(float(i), float(i)) for i in range(5000)]
    kept = thinned(points, 400)
    assert len(kept) == 400 and kept[0] == points[0] and kept[-1] == points[-1]
    steps = [b[0] - a[0] for a, b in zip(kept, kept[1:], strict=False)]
    assert max(steps) - min(steps) <= 1
    assert len(re.findall("<title>", line_chart("t", [Series("s", points)], "x", str))) == 80


def test_a_scatter_keeps_distances():
    figure = scatter("t", "d", [(0, 0, "k", "a"), (4, 0, "k", "b"), (0, 2, "k", "c")], "")
    at = {e.find("title").text: (float(e.get("cx")), float(e.get("cy")))
          for e in svg(figure).iter("circle")}
    assert at["b"][0] - at["a"][0] == pytest.approx(2 * (at["a"][1] - at["c"][1]), abs=0.2)
    wide, high = map(int, svg(figure).get("viewBox").split()[2:])
    assert all(0 < x < wide and 0 < y < high for x, y in at.values())
