// Thresholds: precision, recall and mean cost at every score threshold, and the one that would have cost least.

import { DASHES, axis, colours, size } from "./canvas.js";
import { $, empty, h, nothingYet, sample, show, table } from "./dom.js";
import { count, figure, share, time, zone } from "./format.js";
import { about, champion, deserted, state } from "./state.js";

const LINES = [["precision", 0], ["recall", 1], ["cost", 2]];
const ROWS = 40;
let plot = null;
let built = "";
let drawn = []; // the points of the chart, by ascending threshold

export function drawThresholds() {
  const one = chosen();
  $("thresholds-figure").hidden = !one;
  choices();
  show($("thresholds-empty"), one ? [] : why());
  if (!one) {
    show($("thresholds-table"));
    return;
  }
  drawn = one.points.filter((point) => point.threshold !== null);
  chart(one);
  legend(null);
  const said = sentence(one);
  show($("thresholds-caption"), said);
  $("thresholds-chart").setAttribute("aria-label", said);
  show($("thresholds-table"), details(one));
}

/** Give the version that is shown: the one that was asked for, else the one that serves, else the newest. */
function chosen() {
  const versions = state.thresholds?.versions ?? [];
  return versions.find((one) => one.version === state.judged) ?? versions.find((one) => one.version === champion()) ?? versions[0] ?? null;
}

function choices() {
  const versions = state.thresholds?.versions ?? [];
  const select = $("judged");
  select.closest("label").hidden = versions.length < 2;
  show(select, versions.map((one) => h("option", { value: one.version }, one.version || "(no version)")));
  select.value = chosen()?.version ?? "";
}

function why() {
  if (deserted()) return nothingYet();
  if (state.errors.thresholds) return empty(state.errors.thresholds.message, state.errors.thresholds.fix);
  if (!state.thresholds) return h("p", { class: "quiet" }, "Loading…");
  const about_ = state.slice ? `of ${state.slice} ` : "";
  if (!about()?.metrics.length) {
    return empty("No outcome has been measured yet.", "Thresholds need predictions with a `score` and labels that are 0 or 1. Quality above says what is missing.");
  }
  return empty(`No scored outcome ${about_}in this span of time.`,
    "Thresholds need a number as `score` and labels that are 0 or 1: a model that sends only a `prediction` has none. Choose a longer range or the whole above.");
}

const chance = (value) => (value === null ? "–" : share(value));

function sentence(one) {
  const { best } = one;
  const { cost_fp: fp, cost_fn: fn } = state.thresholds;
  const costs = `A false positive costs ${figure(fp, 2)} and a false negative ${figure(fn, 2)}: `;
  const what = best.threshold === null
    ? `${one.version || "this model"} would have cost least, ${figure(best.cost)} an outcome, had nothing been positive.`
    : `${one.version || "this model"} would have cost least, ${figure(best.cost)} an outcome, at the threshold ${figure(best.threshold)}: precision ${chance(best.precision)}, recall ${chance(best.recall)}.`;
  const seen = ` Over ${count(Math.round(one.positives + one.negatives))} outcomes, ${count(Math.round(one.positives))} of them positive, from ${time(one.first_ms)} to ${time(one.last_ms)} ${zone.name}.`;
  return `${costs}${what}${seen} The best of a window looks better than it is: judge it on another.`;
}

function legend(index) {
  const point = index === null ? chosen().best : drawn[index];
  const at = point.threshold === null ? "above every score" : figure(point.threshold);
  const values = { precision: chance(point.precision), recall: chance(point.recall), cost: figure(point.cost) };
  show($("thresholds-legend"),
    LINES.map(([name, colour]) => h("span", { "data-key": name }, sample(colour, DASHES[colour]), h("b", {}, `${name} `), values[name])),
    h("span", { class: "quiet" }, `${index === null ? "least cost" : "at"} ${at}`));
}

function details(one) {
  const step = Math.max(1, Math.ceil(one.points.length / ROWS));
  const same = (a, b) => a.threshold === b.threshold;
  const rows = one.points.filter((point, n) => n % step === 0 || n === one.points.length - 1 || same(point, one.best));
  return h("details", { "data-key": "thresholds" }, h("summary", {}, "Show as table"),
    table(`${rows.length} thresholds of ${one.version || "(no version)"}; positive is what scores at least as much`, [
      ["Threshold", (p) => [p.threshold === null ? "above all" : figure(p.threshold), same(p, one.best) ? " ★ least cost" : ""], "nowrap"],
      ["Precision", (p) => chance(p.precision), "num"],
      ["Recall", (p) => chance(p.recall), "num"],
      ["Mean cost", (p) => figure(p.cost), "num"],
      ["True positives", (p) => count(Math.round(p.tp)), "num"],
      ["False positives", (p) => count(Math.round(p.fp)), "num"],
      ["False negatives", (p) => count(Math.round(p.fn)), "num"],
      ["True negatives", (p) => count(Math.round(p.tn)), "num"],
    ], rows, (p) => String(p.threshold)));
}

// --- the canvas

function chart(one) {
  const data = [drawn.map((point) => point.threshold), ...LINES.map(([name]) => drawn.map((point) => point[name]))];
  const key = JSON.stringify([one.version, document.documentElement.dataset.theme]);
  if (plot && key === built) {
    plot.setData(data);
    return;
  }
  built = key;
  plot?.destroy();
  plot = new window.uPlot(options(colours()), data, $("thresholds-chart"));
}

function options(colour) {
  const line = (n, scale) => ({ scale, stroke: colour.series[n], width: 2, dash: DASHES[n], points: { show: false }, spanGaps: true });
  return {
    ...size($("thresholds-chart"), 280),
    series: [{}, line(0, "share"), line(1, "share"), line(2, "cost")],
    legend: { show: false },
    cursor: { points: { show: false }, drag: { x: false, y: false } },
    scales: {
      x: { time: false, range: (_, least, most) => (least === most ? [least - 0.5, most + 0.5] : [least, most]) },
      share: { range: [0, 1] },
      cost: { range: (_, least, most) => [0, most > 0 ? most * 1.05 : 1] },
    },
    axes: [
      axis(colour, { size: 32, values: (_, ticks) => ticks.map((at) => figure(at, 2)) }),
      axis(colour, { scale: "share", size: 58, values: (_, ticks) => ticks.map((at) => share(at)) }),
      axis(colour, { scale: "cost", side: 1, size: 56, stroke: colour.series[2], grid: { show: false }, values: (_, ticks) => ticks.map((at) => figure(at, 2)) }),
    ],
    hooks: { draw: [(u) => drawBest(u, colour)], setCursor: [(u) => legend(u.cursor.idx ?? null)] },
  };
}

function drawBest(u, colour) {
  const best = chosen()?.best;
  if (!best || best.threshold === null) return;
  const { ctx } = u;
  const { left, top, width, height } = u.bbox;
  const x = u.valToPos(best.threshold, "x", true);
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = colour.ink;
  ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
  ctx.beginPath();
  ctx.moveTo(x, top + 16 * devicePixelRatio);
  ctx.lineTo(x, top + height);
  ctx.stroke();
  ctx.font = `${12 * devicePixelRatio}px system-ui`;
  ctx.textAlign = x < left + width / 2 ? "left" : "right";
  ctx.fillText(ctx.textAlign === "left" ? "★ least cost" : "least cost ★", x + (ctx.textAlign === "left" ? -5 : 5) * devicePixelRatio, top + 12 * devicePixelRatio);
  ctx.restore();
}

/** Draw again after a change of colours. */
export function redrawThresholds() {
  built = "";
  if (state.thresholds) drawThresholds();
}

new ResizeObserver(() => {
  const element = $("thresholds-chart");
  if (plot && element.clientWidth && plot.width !== size(element, 280).width) plot.setSize(size(element, 280));
}).observe($("thresholds-chart"));

// --- what a mistake costs, in the address, so that it can be sent to somebody

const NAMES = ["cost_fp", "cost_fn"];
const MOST = 1e12;

/** Take the costs from the address; what is no cost is 1. */
export function takeCosts() {
  const given = new URLSearchParams(location.search);
  for (const name of NAMES) {
    const cost = given.has(name) ? costOf(given.get(name)) : null;
    state.costs[name] = cost ?? 1;
    $(name.replace("_", "-")).value = String(state.costs[name]);
  }
}

/** Give the number; null: it is no cost. */
function costOf(text) {
  const cost = Number(text);
  return text.trim() !== "" && Number.isFinite(cost) && cost >= 0 && cost <= MOST ? cost : null;
}

/** Take up what a person typed, if it is a cost, and keep it in the address. Say whether anything changed. */
export function setCost(name, input) {
  const cost = costOf(input.value);
  input.setAttribute("aria-invalid", String(cost === null));
  $("costs-problem").textContent = cost === null ? "A cost is a number from 0 on." : "";
  if (cost === null || cost === state.costs[name]) return false;
  state.costs[name] = cost;
  const query = new URLSearchParams(location.search);
  NAMES.forEach((one) => query.set(one, String(state.costs[one])));
  history.replaceState(null, "", `${location.pathname}?${query}${location.hash}`);
  return true;
}
