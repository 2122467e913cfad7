"""The page of a report: its figures and charts, put into templates/report.html.

The template escapes all values, since paths and class names come from outside.
"""

from __future__ import annotations

import functools
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from data_tools.quantities import duration
from fastmoco.recipe import RECIPES, Recipe, fields_of
from fastmoco.reporting.charts import Series, key, line_chart, scatter
from fastmoco.reporting.pictures import Map, Pictures
from fastmoco.reporting.tables import Table, Waterfall
from fastmoco.runs.record import RunRecord

LONG_WORD = 24  # letters; a longer word may be broken, so that its table fits a phone


@functools.cache
def template() -> Template:
    environment = Environment(
        loader=PackageLoader("fastmoco.reporting"), autoescape=True, trim_blocks=True,
        lstrip_blocks=True, undefined=StrictUndefined,
    )
    environment.tests["long"] = lambda text: max(map(len, text.split()), default=0) > LONG_WORD
    return environment.get_template("report.html")


def page(
    record: RunRecord, pictures: Pictures, tables: list[Table], waterfall: Waterfall | None
) -> str:
    """Return the whole page as HTML."""
    recipe = record.recipe
    return template().render(
        record=record, recipe=recipe, about=record.about, name=record.path.resolve().name,
        tiles=tiles(record), warnings=warnings(record), curves=curves(record), rates=rates(record),
        waterfall=waterfall, longest=longest(waterfall) if waterfall else 0.0, pictures=pictures,
        labelled=any(n.same is not None for _, near in pictures.neighbours for n in near),
        map_chart=feature_map(pictures.map) if pictures.map else "",
        knn=[(f"{row['epoch']:.2f}", f"{row['step']:,}", f"{row['knn']:.1%}")
             for row in record.evaluated],
        tables=tables, known_recipe=recipe.name in RECIPES, changed=changed(recipe),
        fields=[(name, words(value)) for name, value in fields_of(recipe).items()],
        environment=environment(record),
    )


def tiles(record: RunRecord) -> list[tuple[str, str]]:
    """The run's main figures, each with a caption."""
    out = [(f"{record.epochs:,.1f}", f"epochs of {record.recipe.epochs:,} ({record.state})")]
    best = record.best
    if best is not None:
        out.append((f"{best['knn']:.1%}", f"best kNN top-1, at epoch {best['epoch']:.1f}"))
    if record.loss is not None:
        out.append((f"{record.loss:.3f}", f"last loss; a guess has {record.chance:.3f}"))
    if record.images_per_s is not None:
        out.append((f"{record.images_per_s:,.0f}", "images/s, median"))
    if record.train_seconds is not None:
        out.append((duration(record.train_seconds), "of training"))
    return out


def warnings(record: RunRecord) -> list[dict[str, Any]]:
    """The health warnings, each once; "until" is the step at which it cleared, or None."""
    found: dict[str, dict[str, Any]] = {}
    for row in record.judged:
        if not row["over"]:
            found[row["name"]] = {**row, "until": None}
        elif row["name"] in found:
            found[row["name"]]["until"] = row["step"]
    return list(found.values())


def points(record: RunRecord, name: str) -> list[tuple[float, float]]:
    """(epoch, value) of a field over the log lines. Older releases did not write all fields."""
    return [(row["epoch"], row[name]) for row in record.progress if row.get(name) is not None]


def curves(record: RunRecord) -> list[Markup]:
    """Charts of training over epochs; empty if the run wrote no log line."""
    if not record.progress:
        return []

    def chart(title: str, *names: str, y_format=plain, y_range=None, level=None) -> Markup:
        series = [Series(LABELS.get(name, name), points(record, name)) for name in names]
        return line_chart(title, series, "epoch", y_format, level, y_range)

    charts = [chart("Loss (InfoNCE)", "loss", level=("a guess", record.chance))]
    if record.evaluated:
        knn = [(row["epoch"], row["knn"]) for row in record.evaluated]
        charts.append(line_chart("kNN top-1", [Series("kNN", knn)], "epoch", share))
    return [
        *charts,
        chart("Pretext accuracy: queries nearest to their own key", "pretext_accuracy",
              y_format=share, y_range=(0, 1)),
        chart("Learning rate", "lr"),
        chart("Alignment (0 is best) and uniformity (-4 is spread out)", "alignment", "uniformity"),
        chart("Spread of features: 1 is spread out, 0 collapsed", "feature_std", y_range=(0, 1)),
        chart("Gradient norm", "grad_norm"),
    ]


# Names of fields in charts, if they are not the field's own.
LABELS = {"pretext_accuracy": "accuracy", "feature_std": "std", "grad_norm": "norm"}


def rates(record: RunRecord) -> list[Markup]:
    """Charts of the speed over epochs; empty if the run wrote no log line."""
    if not record.progress:
        return []
    speed = points(record, "images_per_s")
    return [
        line_chart("Images per second", [Series("rate", speed)], "epoch", plain, None,
                   (0, max(rate for _, rate in speed))),
        line_chart("Share of the time that steps waited for data",
                   [Series("wait", points(record, "data_wait"))], "epoch", share, None, (0, 1)),
    ]


def longest(waterfall: Waterfall) -> float:
    """Milliseconds that the full width of the bars stands for."""
    return max([waterfall.together, *(b.start + b.length for b in waterfall.stages)])


def feature_map(found: Map) -> Markup:
    """The scatter plot of the features, with a legend of the classes."""
    legend = [key(f"k{i}", name) for i, name in enumerate(found.classes)]
    if found.classes and any(colour < 0 for _, _, colour, _ in found.points):
        legend.append(key("k", "other classes"))
    described = (
        f"Scatter plot of {len(found.points):,} images by their first two principal components, "
        f"coloured by class"
    )
    spots = [(x, y, f"k{c}" if c >= 0 else "k", text) for x, y, c, text in found.points]
    return scatter("Principal components", described, spots, Markup("").join(legend))


def changed(recipe: Recipe) -> list[tuple[str, str, str]]:
    """(field, value here, value there) where a run's recipe differs from the named one."""
    if recipe.name not in RECIPES:
        return []
    base = fields_of(RECIPES[recipe.name])
    return [(n, words(v), words(base[n])) for n, v in fields_of(recipe).items() if v != base[n]]


def environment(record: RunRecord) -> list[tuple[str, str]]:
    """The machine and the packages of a run, as far as it recorded them."""
    about = record.about
    named = {"device": about.device, "engine": about.engine, "data": about.data}
    return [
        *((name, value) for name, value in named.items() if value),
        ("encoder", f"{about.parameters:,} parameters"), *about.versions.items(),
    ]


def words(value: Any) -> str:
    """A recipe's value in words."""
    if isinstance(value, tuple | list):
        return " ".join(words(v) for v in value) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def plain(value: float) -> str:
    """A number for an axis: 12,000, 0.03, 1.5e-05."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def share(value: float) -> str:
    """A percentage for an axis; with a decimal only if it is no whole percent."""
    return f"{value:.1%}" if value % 0.01 > 1e-9 and value % 0.01 < 0.01 - 1e-9 else f"{value:.0%}"
