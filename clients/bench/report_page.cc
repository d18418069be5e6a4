#include "clients/bench/report_page.h"

namespace optserve::bench {

const char kReportPage[] = R"html(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>optserve bench</title>
<style>
:root { color-scheme: light dark; --fg: #1b1f24; --bg: #fff; --dim: #667; --line: #d5d9de; --mark: #2563eb; }
@media (prefers-color-scheme: dark) { :root { --fg: #e6e8eb; --bg: #14171a; --dim: #9aa3ad; --line: #343a41; --mark: #7aa7ff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--fg); background: var(--bg); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .3rem 0; } .dim { color: var(--dim); } .warning { color: #b45309; font-weight: 600; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { text-align: right; padding: .15rem .7rem; border-bottom: 1px solid var(--line); } th:first-child, td:first-child, td.text { text-align: left; }
svg { width: 100%; height: auto; } svg text { fill: var(--dim); font-size: 12px; }
.axis { stroke: var(--line); } code { word-break: break-all; }
@media (max-width: 40rem) { body { padding: 0 .5rem; } table { width: 100%; font-size: 13px; } th, td { padding: .15rem .2rem; } }
</style>
</head>
<body>
<main id="page"></main>
<script type="application/json" id="report">@REPORT@</script>
<script>
"use strict";
const report = JSON.parse(document.getElementById("report").textContent);
const page = document.getElementById("page");
const COLOURS = { weights: "#2563eb", attention: "#7c3aed", all_reduce: "#db2777", kernels: "#0891b2", sampling: "#16a34a",
  gaps: "#ca8a04", device: "#475569", host: "#ea580c", queue: "#94a3b8", front_end: "#0d9488", wire: "#65a30d", client: "#be123c" };

function add(parent, name, text, attributes = {}) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}
function draw(parent, name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}
const show = (value) => value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toPrecision(3);

function table(parent, head, rows) {
  const body = add(parent, "table");
  const first = add(body, "tr");
  head.forEach((cell) => add(first, "th", cell));
  for (const row of rows) {
    const line = add(body, "tr");
    row.forEach((cell, i) => add(line, "td", typeof cell === "number" ? show(cell) : cell, i > 0 && typeof cell === "string" ? { class: "text" } : {}));
  }
}

function frame(parent, label, height) {
  const svg = draw(parent, "svg", { viewBox: `0 0 860 ${height}`, role: "img", "aria-label": label });
  draw(svg, "title", {}, label);
  return svg;
}

// A line for each percentile, over the load.
function loadPlot(parent, runs, key, title) {
  add(parent, "h3", title);
  const svg = frame(parent, title, 260), left = 60, right = 840, top = 10, bottom = 225;
  const lines = ["p50", "p90", "p99"], colours = ["#2563eb", "#ca8a04", "#be123c"];
  const xs = runs.map((run) => run.offered_rate || run.summary.requests_per_second);
  const maxX = Math.max(...xs) * 1.05, maxY = Math.max(...runs.map((run) => run.summary.latency[key].p99)) * 1.1 || 1;
  const x = (v) => left + (right - left) * v / maxX, y = (v) => bottom - (bottom - top) * v / maxY;
  for (let i = 0; i <= 4; ++i) {
    const v = maxY * i / 4;
    draw(svg, "line", { x1: left, x2: right, y1: y(v), y2: y(v), class: "axis" });
    draw(svg, "text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, show(v));
    draw(svg, "text", { x: x(maxX * i / 4), y: bottom + 18, "text-anchor": "middle" }, show(maxX * i / 4));
  }
  draw(svg, "text", { x: (left + right) / 2, y: bottom + 33, "text-anchor": "middle" }, "requests per second offered");
  if (report.knee >= 0) draw(svg, "line", { x1: x(xs[report.knee]), x2: x(xs[report.knee]), y1: top, y2: bottom, stroke: "var(--mark)", "stroke-dasharray": "4 4" });
  lines.forEach((line, i) => {
    const points = runs.map((run, j) => `${x(xs[j])},${y(run.summary.latency[key][line])}`);
    draw(svg, "polyline", { points: points.join(" "), fill: "none", stroke: colours[i], "stroke-width": 2 });
    runs.forEach((run, j) => draw(svg, "circle", { cx: x(xs[j]), cy: y(run.summary.latency[key][line]), r: 3, fill: colours[i] }));
    draw(svg, "text", { x: left + 12 + 50 * i, y: top + 12, style: `fill:${colours[i]}` }, line);
  });
}

function histogram(parent, values, title) {
  if (values.length < 2) return;
  add(parent, "h3", title);
  const svg = frame(parent, title, 170), left = 60, right = 840, top = 8, bottom = 135, bins = 60;
  const sorted = [...values].sort((a, b) => a - b);
  const low = sorted[0], high = sorted[Math.floor(0.995 * (sorted.length - 1))] || 1, width = (high - low) / bins || 1;
  const counts = new Array(bins + 1).fill(0);
  for (const value of values) counts[Math.min(bins, Math.floor((value - low) / width))] += 1;
  const most = Math.max(...counts);
  counts.forEach((count, i) => {
    const height = (bottom - top) * count / most;
    draw(svg, "rect", { x: left + (right - left) * i / (bins + 1), y: bottom - height, width: (right - left) / (bins + 1) - 1, height, fill: "var(--mark)" });
  });
  draw(svg, "line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "axis" });
  for (let i = 0; i <= 4; ++i) draw(svg, "text", { x: left + (right - left) * i / 4, y: bottom + 18, "text-anchor": "middle" }, show(low + (high - low) * i / 4));
  draw(svg, "text", { x: left - 6, y: top + 10, "text-anchor": "end" }, most);
  draw(svg, "text", { x: (left + right) / 2, y: bottom + 33, "text-anchor": "middle" }, "ms (the last bar holds all that is longer)");
}

// Parts one behind the other, as long as they take; below, the least that the roof allows.
function timeline(parent, parts, total, title) {
  add(parent, "h3", title);
  const svg = frame(parent, title, 120), left = 10, right = 850;
  let at = left, row = 0;
  for (const part of parts) {
    const width = (right - left) * part.ms / total;
    if (width <= 0) continue;
    const box = draw(svg, "rect", { x: at, y: 10, width, height: 34, fill: COLOURS[part.name] || "#888" });
    draw(box, "title", {}, `${part.name}: ${show(part.ms)} ms`);
    if (part.least_ms > 0) {
      const least = draw(svg, "rect", { x: at, y: 48, width: Math.min((right - left) * part.least_ms / total, right - at), height: 8, fill: COLOURS[part.name] || "#888", opacity: 0.5 });
      draw(least, "title", {}, `${part.name}, at least: ${show(part.least_ms)} ms`);
    }
    at += width;
  }
  let x = left;
  for (const part of parts.filter((p) => p.ms > 0.001 * total)) {
    const label = `${part.name} ${(100 * part.ms / total).toFixed(1)} %`;
    if (x + 8 * label.length + 20 > right) { x = left; ++row; }
    draw(svg, "rect", { x, y: 68 + 20 * row, width: 10, height: 10, fill: COLOURS[part.name] || "#888" });
    draw(svg, "text", { x: x + 15, y: 77 + 20 * row }, label);
    x += 8 * label.length + 26;
  }
}

function explain(parent, e) {
  timeline(parent, e.parts, e.ms_per_token * Math.max(1, e.explained), `The ${show(e.ms_per_token)} ms of a token`);
  add(parent, "p", `The parts sum to ${(100 * e.explained).toFixed(1)} % of it` + (e.least > 0 ? `; the least that this machine needs for it is ${(100 * e.least).toFixed(1)} %. The pale bars are that least.` : "."), { class: Math.abs(e.explained - 1) > 0.03 ? "warning" : "dim" });
  table(parent, ["part", "ms", "share %", "at least ms", ""], e.parts.map((p) => [p.name, p.ms, 100 * p.ms / e.ms_per_token, p.least_ms > 0 ? p.least_ms : "", p.what]));
  if (e.steps > 0) add(parent, "p", `${e.steps} steps of the engine took ${show(e.steps_ms)} ms, ${show(e.steps_ms / e.steps)} ms each on average.`, { class: "dim" });
  showSteps(parent, e.last_steps);
}

// Steps as they were, each at its time: as wide as it was long, and as high.
function stepsPlot(parent, steps) {
  const title = steps.length > 1 ? `The last ${steps.length} steps of the engine, ms each` : "The last step of the engine, ms";
  add(parent, "h3", title);
  const svg = frame(parent, title, 220), left = 60, right = 840, top = 10, bottom = 175;
  const end = Math.max(...steps.map((s) => s.begin_ms + s.total)), most = Math.max(...steps.map((s) => s.total)) * 1.05;
  const x = (v) => left + (right - left) * v / end, height = (v) => (bottom - top) * v / most;
  for (let i = 0; i <= 4; ++i) {
    draw(svg, "line", { x1: left, x2: right, y1: bottom - height(most * i / 4), y2: bottom - height(most * i / 4), class: "axis" });
    draw(svg, "text", { x: left - 6, y: bottom - height(most * i / 4) + 4, "text-anchor": "end" }, show(most * i / 4));
    draw(svg, "text", { x: x(end * i / 4), y: bottom + 18, "text-anchor": "middle" }, show(end * i / 4));
  }
  draw(svg, "text", { x: (left + right) / 2, y: bottom + 33, "text-anchor": "middle" }, "ms since the first of them began");
  for (const step of steps) {
    const bar = draw(svg, "g", {});
    draw(bar, "title", {}, `step of ${show(step.total)} ms: ${step.tokens} tokens of ${step.sequences} sequences`);
    let at = bottom;
    for (const [name, ms] of Object.entries(step.ms)) {
      at -= height(ms);
      draw(bar, "rect", { x: x(step.begin_ms), y: at, width: Math.max(0.5, x(step.total) - left - 0.2), height: height(ms), fill: COLOURS[name] || "#888" });
    }
  }
}

function showSteps(parent, last) {
  if (!last || last.length === 0) return;
  const steps = last.map((s) => ({ ...s, total: Object.values(s.ms || {}).reduce((a, b) => a + b, 0) }));
  stepsPlot(parent, steps);
  const sorted = [...steps].sort((a, b) => a.total - b.total);
  const one = (step, name) => timeline(parent, Object.entries(step.ms).map(([part, ms]) => ({ name: part, ms })), step.total,
    `The ${name} of them: ${show(step.total)} ms, ${step.tokens} tokens of ${step.sequences} sequences`);
  one(sorted[sorted.length - 1], "slowest");
  one(sorted[Math.floor(sorted.length / 2)], "median");
}

function showRun(run) {
  const s = run.summary;
  add(page, "h2", run.name);
  add(page, "p", `${s.requests} requests after ${run.warm_up} of warm-up, ${s.answered} answered whole, ${show(s.seconds)} s; ${s.prompt_tokens} tokens in, ${s.output_tokens} out`);
  add(page, "p", `${show(s.requests_per_second)} requests/s, ${show(s.output_tokens_per_second)} output tokens/s` + (s.goodput !== undefined ? `, goodput ${show(s.goodput)} requests/s (${(100 * s.good_share).toFixed(1)} % within the limits)` : ""));
  for (const [error, count] of Object.entries(s.errors)) add(page, "p", `error: ${count} x ${error}, ${s.errors_in_stream[error] || 0} of them inside streams`, { class: "warning" });
  for (const why of run.client_limits) add(page, "p", `limited by the client: ${why}`, { class: "warning" });
  const names = { ttft_ms: "TTFT", itl_ms: "ITL", tpot_ms: "TPOT", e2e_ms: "E2E" };
  table(page, ["ms", "p50", "p90", "p99", "mean", "max", "values"], Object.entries(names).map(([key, name]) => { const d = s.latency[key]; return [name, d.p50, d.p90, d.p99, d.mean, d.max, String(d.count)]; }));
  if (run.explain) explain(page, run.explain);
  histogram(page, run.samples.itl_ms, "Gaps between tokens");
  histogram(page, run.samples.ttft_ms, "Times to the first token");
}

// The report of `bench kernels`: how much of what the machine can do each kernel makes.
function showKernels() {
  add(page, "h1", "Kernels at the shapes of OPT-125M");
  add(page, "p", `${report.started}; ${report.cpu}, ${report.threads} threads, ${report.isa}: reads ${show(report.read_bytes_per_second * 1e-9)} GB/s, ${show(report.flops * 1e-9)} GFLOP/s`, { class: "dim" });
  add(add(page, "p"), "code", report.command);
  for (const [key, title] of [["linear", "Products with weights"], ["model", "Whole steps of the model"]]) {
    const rows = report[key], most = Math.max(1, ...rows.map((r) => Math.max(r.ratio, r.target || 0)));
    add(page, "h2", title);
    const svg = frame(page, title, 30 + 24 * rows.length), left = 190, right = 840;
    const x = (v) => left + (right - left) * v / most;
    rows.forEach((row, i) => {
      const y = 6 + 24 * i, short = row.target !== undefined && row.ratio < row.target;
      draw(svg, "text", { x: left - 8, y: y + 13, "text-anchor": "end" }, row.name);
      const bar = draw(svg, "rect", { x: left, y, width: x(row.ratio) - left, height: 18, fill: short ? "#be123c" : "var(--mark)" });
      draw(bar, "title", {}, `${row.name}: ${show(row.value)} ${row.unit}, ${show(row.ratio)} of ${row.of}`);
      if (row.target !== undefined) draw(svg, "line", { x1: x(row.target), x2: x(row.target), y1: y - 2, y2: y + 20, stroke: "var(--fg)", "stroke-dasharray": "3 3" });
    });
    draw(svg, "line", { x1: x(1), x2: x(1), y1: 0, y2: 8 + 24 * rows.length, class: "axis" });
    draw(svg, "text", { x: x(1), y: 22 + 24 * rows.length, "text-anchor": "middle" }, "1: all that the machine can do");
    table(page, ["", "value", "unit", "ratio", "of", "asked for"], rows.map((r) => [r.name, r.value, r.unit, r.ratio, r.of, r.target === undefined ? "" : r.target]));
  }
}

function showLoads() {
  add(page, "h1", report.target);
  add(page, "p", `${report.started}, workload ${report.workload.name}, seed ${report.workload.seed}; ${report.machine}`, { class: "dim" });
  add(add(page, "p"), "code", report.command);
  if (report.runs.length > 1) {
    add(page, "h2", "Latency against load");
    if (report.knee >= 0) add(page, "p", `The knee, dashed: ${report.runs[report.knee].name}`);
    const open = report.runs.filter((run) => run.offered_rate > 0);
    const runs = open.length > 1 ? open : report.runs;
    loadPlot(page, runs, "e2e_ms", "End to end, ms");
    loadPlot(page, runs, "ttft_ms", "Time to first token, ms");
    loadPlot(page, runs, "itl_ms", "Between tokens, ms");
  }
  report.runs.forEach(showRun);
}

if (report.format === "optserve-bench-kernels-1") showKernels();
else showLoads();
</script>
</body>
</html>
)html";

}  // namespace optserve::bench
