"""A report as HTML. Whatever comes from outside (paths, names of classes) is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from fastmoco.recipe import RECIPES, fields_of
from fastmoco.reporting.charts import Series, line_chart, scatter
from fastmoco.reporting.pictures import Map, Neighbour, Pictures
from fastmoco.reporting.style import CLASS_COLOURS, CSS
from fastmoco.reporting.tables import Table, Waterfall
from fastmoco.runs.record import RunRecord


def page(
    record: RunRecord, pictures: Pictures, tables: list[Table], waterfall: Waterfall | None
) -> str:
    """The whole page."""
    title = f"{record.path.resolve().name}: {record.recipe.name}"
    body = [
        head(record), section("Curves", curves(record)),
        section("Throughput", throughput(record, waterfall)),
        section("Views", views(pictures)),
        section("What the encoder finds alike", neighbours(pictures)),
        section("Map of features", feature_map(pictures)),
        section("Evaluations", evaluations(record, tables)),
        section("Recipe", recipe_table(record)),
        section("Environment", environment(record)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'  # or the browser asks for /favicon.ico
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, content: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{content}\n</section>"


def lacks(text: str) -> str:
    """What is not there, in words."""
    return f'<p class="pale">{escape(text)}</p>'


def head(record: RunRecord) -> str:
    r, about, best = record.recipe, record.about, record.best
    tiles = [(f"{record.epochs:,.1f}", f"epochs of {r.epochs:,} ({record.state})")]
    if best is not None:
        tiles.append((f"{best['knn']:.1%}", f"best kNN top-1, at epoch {best['epoch']:.1f}"))
    if record.loss is not None:
        tiles.append((f"{record.loss:.3f}", f"last loss; a guess has {record.chance:.3f}"))
    if record.images_per_s is not None:
        tiles.append((f"{record.images_per_s:,.0f}", "images/s, median"))
    if record.train_seconds is not None:
        tiles.append((duration(record.train_seconds), "of training"))
    about_data = f"{about.samples:,} images of {about.data or 'a dataset'}"
    shown = "".join(f"<li><b>{escape(b)}</b><span>{escape(s)}</span></li>" for b, s in tiles)
    return (
        f"<h1>{escape(record.path.resolve().name)}</h1>\n"
        f'<p class="pale">{escape(r.name)}: {escape(r.arch)}, {r.mechanism}, {r.size} px, batch '
        f"{r.batch:,}, on {escape(about_data)}</p>\n"
        f'<ul class="tiles">{shown}</ul>\n{verdicts(record)}'
    )


def verdicts(record: RunRecord) -> str:
    """What the run's figures meant, as it said while it trained; what was over later is pale."""
    now: dict[str, dict[str, Any]] = {}
    for row in record.judged:
        if not row["over"]:
            now[row["name"]] = {**row, "until": None}
        elif row["name"] in now:
            now[row["name"]]["until"] = row["step"]
    out = ""
    for row in now.values():
        over = "" if row["until"] is None else f", over at step {row['until']:,}"
        css = "verdict over" if over else "verdict"
        out += f'<p class="{css}">{escape(row["text"])} (step {row["step"]:,}{over})</p>\n'
    return out


def curves(record: RunRecord) -> str:
    rows = record.progress
    if not rows:
        return lacks("No log line was written: the run ended before --log-every steps.")

    def of(name: str) -> list[tuple[float, float]]:
        return [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]

    charts = [line_chart(
        "Loss (InfoNCE)", [Series("loss", of("loss"))], "epoch", plain,
        ("a guess", rows[-1]["chance"]),
    )]
    knn = [(row["epoch"], row["knn"]) for row in record.evaluated]
    if knn:
        charts.append(line_chart("kNN top-1", [Series("kNN", knn)], "epoch", share))
    charts += [
        line_chart("Pretext accuracy: queries nearest to their own key",
                   [Series("accuracy", of("pretext_accuracy"))], "epoch", share, None, (0, 1)),
        line_chart("Learning rate", [Series("lr", of("lr"))], "epoch", plain),
        line_chart("Alignment (0 is best) and uniformity (-4 is spread out)",
                   [Series("alignment", of("alignment")), Series("uniformity", of("uniformity"))],
                   "epoch", plain),
        line_chart("Spread of features: 1 is spread out, 0 collapsed",
                   [Series("std", of("feature_std"))], "epoch", plain, None, (0, 1)),
        line_chart("Gradient norm", [Series("norm", of("grad_norm"))], "epoch", plain),
    ]
    note = "" if knn else lacks("No kNN was measured: train had no --val.")
    return f'<div class="charts">{"".join(charts)}</div>{note}'


def throughput(record: RunRecord, waterfall: Waterfall | None) -> str:
    rows = record.progress
    if not rows:
        return lacks("No rate was measured.")
    rates = [(row["epoch"], row["images_per_s"]) for row in rows]
    waits = [(row["epoch"], row["data_wait"]) for row in rows]
    most = max(rate for _, rate in rates)
    out = '<div class="charts">' + line_chart(
        "Images a second", [Series("rate", rates)], "epoch", plain, None, (0, most)
    ) + line_chart(
        "Share of the time that steps waited for data", [Series("wait", waits)], "epoch", share,
        None, (0, 1),
    ) + "</div>"
    if waterfall is None:
        return out + (
            "<p class='pale'>What each stage takes was not measured. <code>fastmoco bench DATA "
            "--json &gt; RUN/bench.json</code> with the same recipe measures it; then make the "
            "report again.</p>"
        )
    return out + bars(waterfall)


def bars(waterfall: Waterfall) -> str:
    """Milliseconds an image, each stage beginning where the one before it ends."""
    whole = max([waterfall.together, *(b.start + b.length for b in waterfall.stages)])
    rows = [(b.name, b.start, b.length, "c0") for b in waterfall.stages]
    rows.append(("together, as measured", 0.0, waterfall.together, "c2"))
    out = ""
    for name, start, length, css in rows:
        left, wide = start / whole * 100, length / whole * 100
        out += (
            f'<div class="row"><span>{escape(name)}</span><div class="track">'
            f'<div class="bar {css}" style="margin-left:{left:.2f}%;width:{wide:.2f}%"></div></div>'
            f'<span class="value">{length:,.3f} ms</span></div>'
        )
    side = "" if not waterfall.overlap else " Loading runs beside the device's work here."
    return (
        f"<p>Time an image of each stage, measured alone on {escape(waterfall.machine)}.{side}</p>"
        f'<div class="bars">{out}</div><p>Binds: {escape(waterfall.binds)}. Change: '
        f"{escape(waterfall.advice)}</p>"
    )


def views(pictures: Pictures) -> str:
    if not pictures.views:
        return lacks(f"No pictures: {pictures.lacking.get('views', 'none were drawn')}.")
    shown = "".join(f'<img src="{p.uri}" alt="{escape(p.alt)}">' for p in pictures.views)
    return (
        "<p>The first samples of the first epoch: each source with its two windows, and the views "
        f'that the encoders saw, before they were normalised.</p><div class="sheets">{shown}</div>'
    )


def neighbours(pictures: Pictures) -> str:
    reason = pictures.lacking.get("features") or pictures.lacking.get("neighbours")
    if not pictures.neighbours:
        return lacks(f"No neighbours: {reason or 'the dataset holds one image'}.")
    rows = "".join(
        f'<ul class="near">{tile(query, "query")}{"".join(tile(n, "") for n in near)}</ul>'
        for query, near in pictures.neighbours
    )
    labelled = any(n.same is not None for _, near in pictures.neighbours for n in near)
    colours = " Green: the query's class; red: another." if labelled else ""
    return (
        f"<p>Each query (first in its row) and the training images nearest to it, by the cosine of "
        f"pooled features ({escape(pictures.encoder)}).{colours}</p>"
        f'<div class="queries">{rows}</div>'
    )


def tile(n: Neighbour, what: str) -> str:
    css = what if what or n.same is None else ("same" if n.same else "other")
    words = what or f"cosine {n.cosine:.2f}"
    told = f"{n.picture.alt}, {words}" + ("" if what or not css else f", {css} class")
    return (
        f'<li class="{css}"><img src="{n.picture.uri}" alt="{escape(told)}">'
        f"{escape(n.name)}{'' if what else f' {n.cosine:.2f}'}</li>"
    )


def feature_map(pictures: Pictures) -> str:
    found: Map | None = pictures.map
    if found is None:
        return lacks(f"No map: {pictures.lacking.get('features', 'no features')}.")
    legend = "".join(
        f'<span><i class="key k{i}"></i>{escape(name)}</span>'
        for i, name in enumerate(found.classes[: len(CLASS_COLOURS)])
    )
    points = [(x, y, f"k{c}" if c >= 0 else "k", told) for x, y, c, told in found.points]
    other = any(c < 0 for _, _, c, _ in found.points) and bool(found.classes)
    legend += '<span><i class="key k"></i>other classes</span>' if other else ""
    unlabelled = "" if found.classes else " The data has no labels, so all have one colour."
    described = (
        f"Scatter plot of {len(points):,} images by their first two principal components, coloured "
        f"by class"
    )
    return (
        f"<p>Pooled features of {len(points):,} training images ({escape(pictures.encoder)}) on "
        f"their first two principal components, which hold {found.explained:.0%} of the variance."
        f'{unlabelled}</p><div class="map">'
        + scatter("Principal components", described, points, legend) + "</div>"
    )


def evaluations(record: RunRecord, tables: list[Table]) -> str:
    out = ""
    if record.evaluated:
        rows = [
            (f"{row['epoch']:.2f}", f"{row['step']:,}", f"{row['knn']:.1%}")
            for row in record.evaluated
        ]
        protocol = record.evaluated[-1]["protocol"]
        out += f"<p>kNN while training ({escape(protocol)})</p>" + table(
            ("epoch", "step", "top-1"), rows
        )
    for t in tables:
        out += f"<p>{escape(t.title)}</p>" + table(t.headers, t.rows)
    return out or lacks(
        "None yet. fastmoco knn RUN TRAIN VAL --json > RUN/knn.json (linear and finetune likewise) "
        "puts them here when the report is made again."
    )


def recipe_table(record: RunRecord) -> str:
    values = fields_of(record.recipe)
    base = fields_of(RECIPES[record.recipe.name]) if record.recipe.name in RECIPES else None
    changed = [] if base is None else [n for n, v in values.items() if v != base[n]]
    every = table(("field", "value"), [(n, words(v)) for n, v in values.items()])
    if base is None:
        return every
    name = escape(record.recipe.name)
    if changed:
        rows = [(n, words(values[n]), words(base[n])) for n in changed]
        differs = f"<p>Differs from {name} in:</p>" + table(("field", "here", "there"), rows)
    else:
        differs = f"<p>{name}, as it is.</p>"
    return f"{differs}<details><summary>All {len(values)} fields</summary>{every}</details>"


def environment(record: RunRecord) -> str:
    about = record.about
    rows = [("device", about.device), ("engine", about.engine), ("data", about.data)]
    rows = [(name, value) for name, value in rows if value]
    rows.append(("encoder", f"{about.parameters:,} parameters"))
    rows += about.versions.items()
    return table(("what", "value"), rows)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls by itself where it is wider than the page."""
    head_ = "".join(f'<th scope="col">{escape(h)}</th>' for h in headers)
    body = "".join(
        "<tr>" + "".join(cell_of(text) for text in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(headers[0])} table">'
        f"<table><thead><tr>{head_}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def cell_of(text: str) -> str:
    """A cell; a long word in it, a path say, may be broken."""
    css = ' class="text"' if max(map(len, text.split()), default=0) > 24 else ""
    return f"<td{css}>{escape(text)}</td>"


def words(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " ".join(words(v) for v in value) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def plain(value: float) -> str:
    """A number for an axis: 12,000, 0.03, 1.5e-05."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def share(value: float) -> str:
    return f"{value:.1%}" if value % 0.01 > 1e-9 and value % 0.01 < 0.01 - 1e-9 else f"{value:.0%}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
