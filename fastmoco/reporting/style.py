"""The report's style sheet: light and dark by the reader's choice, one column on a phone."""

# Colours of classes: told apart by most eyes, on both grounds.
CLASS_COLOURS = (
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2",
    "#d4a72c", "#9d755d", "#d67195", "#6b8e23", "#5d69b1", "#2f8ac4",
)

CSS = """
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #fff; --ink: #22252b; --pale: #656b76;
  --line: #e3e1dc; --c0: #2a6fb0; --c1: #c8553d; --c2: #3f8f5f; --good: #2e7d4f; --bad: #b3402e; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15171b; --card: #1d2026; --ink: #e6e6e3; --pale: #9aa1ad; --line: #333842;
    --c0: #6fb1ea; --c1: #f0937c; --c2: #7ccb9a; --good: #7ccb9a; --bad: #f0937c; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 48px 0 4px; padding-top: 12px; border-top: 1px solid var(--line); }
p { margin: 4px 0 12px; max-width: 72ch; }
.pale, .legend, figcaption small { color: var(--pale); }
a { color: var(--c0); }
h1, p, td, th, dd, code { overflow-wrap: anywhere; }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 24px 0; padding: 0; list-style: none; }
.tiles li, figure, .verdict { background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
.tiles li { padding: 12px 14px; }
.tiles b { display: block; font-size: 1.5rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.tiles span { color: var(--pale); font-size: .85rem; }
.verdict { padding: 10px 14px; margin: 8px 0; border-left: 4px solid var(--c1); }
.verdict.over { border-left-color: var(--line); color: var(--pale); }
.charts { display: grid; gap: 16px; margin: 16px 0;
  grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); }
figure { margin: 0; padding: 12px 12px 8px; min-width: 0; }
figcaption { font-weight: 600; font-size: .95rem; margin: 0 0 6px; }
.legend { display: block; font-weight: 400; font-size: .85rem; }
.legend span { margin-right: 12px; white-space: nowrap; }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 5px; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--pale); font: 11px system-ui, sans-serif; }
.grid { stroke: var(--line); }
.level { stroke: var(--pale); stroke-dasharray: 4 3; }
.line { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round; }
.dot { fill: currentColor; } .hover { fill: transparent; }
.hover:hover { fill: currentColor; fill-opacity: .2; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); }
i.key { background: currentColor; }
.spot { fill: currentColor; fill-opacity: .75; }
.spot:hover { fill-opacity: 1; stroke: var(--ink); }
.map { max-width: 720px; } .k { color: var(--pale); }
.bars div.row { display: grid; grid-template-columns: 12rem 1fr 6rem; gap: 2px 12px;
  align-items: center; padding: 3px 0; }
.bars { font-size: .92rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: 14px; margin: 12px 0; max-width: 820px; }
.bars .track { min-width: 0; } .bars .bar { height: 16px; border-radius: 3px; min-width: 2px;
  background: currentColor; }
.bars .value { text-align: right; font-variant-numeric: tabular-nums; color: var(--pale); }
.sheets { display: grid; gap: 12px; margin: 12px 0;
  grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)); }
.sheets img { width: 100%; height: auto; display: block; border-radius: 8px; }
.queries { display: grid; gap: 16px 28px; margin: 16px 0;
  grid-template-columns: repeat(auto-fill, minmax(min(480px, 100%), 1fr)); }
.near { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 8px; margin: 0;
  padding: 0; list-style: none; }
.near img { width: 100%; aspect-ratio: 1; display: block; border-radius: 6px;
  border: 2px solid var(--line); }
.near .same img { border-color: var(--good); } .near .other img { border-color: var(--bad); }
.near li { font-size: .72rem; line-height: 1.3; color: var(--pale); min-width: 0;
  overflow-wrap: anywhere; }
.near .query { font-weight: 600; color: var(--ink); }
.near .query img { border-color: var(--ink); }
.scroll { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 16px 5px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
.scroll th, .scroll td { overflow-wrap: normal; }
td.text { overflow-wrap: anywhere; }
th { font-weight: 600; color: var(--pale); }
summary { cursor: pointer; color: var(--c0); margin: 8px 0; }
:focus-visible { outline: 2px solid var(--c0); outline-offset: 2px; }
@media (max-width: 560px) {
  main { padding: 20px 16px 48px; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 8px; }
  .tiles b { font-size: 1.25rem; }
  .near { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .bars div.row { grid-template-columns: minmax(0, 1fr) max-content; }
  .bars .track { grid-column: 1 / -1; grid-row: 2; }
  figure { padding: 10px 8px 6px; }
}
@media print { figure, .sheets img, .near { break-inside: avoid; } }
""" + "".join(f".k{i} {{ color: {colour}; }}\n" for i, colour in enumerate(CLASS_COLOURS))
