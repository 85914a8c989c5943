"""The page's style sheet, light or dark."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --raised: #f4f4f1; --ink: #1c1d1f; --soft: #5c6066; --line: #dcdcd6;
  --accent: #1f5fbf; --warm: #b4510a; --calm: #5f7285; --third: #23805a; --fourth: #8a3fa8; --mark: #e8effa;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --raised: #1e2125; --ink: #e7e8ea; --soft: #a0a6ad; --line: #363a40;
    --accent: #79aef8; --warm: #f0a35e; --calm: #98a9ba; --third: #62c99a; --fourth: #cf92e6; --mark: #1d2a3d;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 70rem; padding: 2.5rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 3.2rem 0 .6rem; letter-spacing: -.005em; }
h3 { font-size: 1rem; margin: 1.8rem 0 .4rem; overflow-wrap: anywhere; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
p { margin: .5rem 0 .9rem; }
a { color: var(--accent); }
small, .note, figcaption { color: var(--soft); font-size: .875rem; line-height: 1.5; }
code, pre { font: .875em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { background: var(--raised); border-radius: 6px; padding: .8rem 1rem; overflow-x: auto; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--accent); }
nav { margin: 1.6rem 0 0; font-size: .9375rem; }
nav a { display: inline-block; margin-right: 1.1rem; text-decoration: none; padding: .15rem 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem;
  margin: 1.5rem 0; }
.figures > div { background: var(--raised); border-radius: 8px; padding: .75rem .9rem; }
.figures b { display: block; font-size: 1.5rem; line-height: 1.25; font-weight: 600;
  font-variant-numeric: tabular-nums; }
.figures span { color: var(--soft); font-size: .875rem; }
.notice { border-left: 3px solid var(--warm); background: var(--raised); padding: .6rem .9rem;
  border-radius: 0 6px 6px 0;
  margin: .6rem 0; max-width: 46rem; overflow-wrap: anywhere; }
/* A shadow at the side where a wide table continues; at its end the background covers the shadow. */
.wide { overflow-x: auto; margin: .8rem 0; max-width: 100%; background:
  linear-gradient(to right, var(--paper) 40%, transparent) left / 2.5rem 100% no-repeat local,
  linear-gradient(to left, var(--paper) 40%, transparent) right / 2.5rem 100% no-repeat local,
  linear-gradient(to right, var(--line), transparent) left / .9rem 100% no-repeat scroll,
  linear-gradient(to left, var(--line), transparent) right / .9rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .9375rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .75rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
  font-weight: 400; }
thead th { color: var(--soft); font-size: .8125rem; font-weight: 500; vertical-align: bottom; }
th:first-child { text-align: left; padding-left: .4rem; }
/* Wide enough for a number or the name of a package. */
.words th, .words td { white-space: normal; min-width: 5.5rem; }
.words tbody th { overflow-wrap: anywhere; min-width: 8rem; }
tr.marked > * { background: var(--mark); font-weight: 600; }
.charts { display: flex; flex-wrap: wrap; gap: 1.25rem 2rem; }
.charts figure { flex: 0 1 29rem; min-width: 0; }
figure { margin: .8rem 0; }
svg { display: block; width: 100%; height: auto; font-family: inherit; }
svg text { fill: var(--soft); font-size: 11px; }
svg text.name { fill: var(--ink); }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .lead { stroke: var(--soft); stroke-width: .6; }
.key { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .3rem 0 0; padding: 0; list-style: none;
  font-size: .8125rem; color: var(--soft); }
.key i { display: inline-block; width: .8rem; height: .2rem; border-radius: 2px; margin-right: .4rem;
  vertical-align: middle; }
.spaces { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19.5rem, 100%), 1fr)); gap: 1rem;
  margin: 1rem 0; }
.space { border: 1px solid var(--line); border-radius: 8px; padding: .75rem .9rem; margin: 0; min-width: 0; }
.space > b { display: block; font-weight: 600; font-size: .9375rem; overflow-wrap: anywhere; }
.plans { display: grid; grid-template-columns: repeat(auto-fill, minmax(7.5rem, 1fr)); gap: .75rem;
  margin-top: .6rem; }
.plans img { display: block; width: 100%; aspect-ratio: 1; image-rendering: pixelated; background: var(--raised);
  border: 1px solid var(--line); border-radius: 3px; }
.plans > div > span { display: block; font-size: .8125rem; color: var(--ink); overflow-wrap: anywhere;
  margin-bottom: .25rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 0 .4rem; margin: .35rem 0 0; font-size: .78rem;
  line-height: 1.5; }
dt { color: var(--soft); }
dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.chosen { font-size: .9375rem; grid-template-columns: 11.5rem 1fr; gap: .5rem 1rem; margin: 1.2rem 0;
  max-width: 46rem; }
.chosen dd { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.chosen b { display: block; font-weight: 500; }
.bars { display: grid; gap: .5rem; margin: .8rem 0; max-width: 46rem; }
.bars > div { display: grid; grid-template-columns: 1fr auto; gap: 0 .75rem; font-size: .9375rem; }
.bars span { overflow-wrap: anywhere; }
.bars em { font-style: normal; font-variant-numeric: tabular-nums; }
.bars i { grid-column: 1 / -1; height: .4rem; border-radius: 3px; background: var(--calm); min-width: 2px; }
.bars .marked i { background: var(--accent); }
.bars .marked span, .bars .marked em { font-weight: 600; }
@media (max-width: 40rem) {
  body { padding: 1.5rem 1rem 3rem; }
  h1 { font-size: 1.5rem; }
  h2 { margin-top: 2.4rem; }
  .figures { grid-template-columns: 1fr 1fr; }
  .chosen { grid-template-columns: 1fr; gap: 0; }
  .chosen dd { margin-bottom: .7rem; }
}
@media print { body { max-width: none; } .wide { overflow: visible; } }
"""
