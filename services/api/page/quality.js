// The quality chart: a line and a band per version, the open end dashed and grey (what it will be, where that was told
// ahead), marks for what happened, and the same as a sentence and a table.

import { DASHES, axis, colours, faded, size } from "./canvas.js";
import { $, empty, h, nothingYet, sample, show, table } from "./dom.js";
import { clock, count, figure, interval, share, tick, time, zone } from "./format.js";
import { about, champion, deserted, marks, series, since, state } from "./state.js";

const MOST = 6;
const ROWS = 30;
const LEAST_SPAN = 0.1; // an axis that zooms into noise makes it look like drift
let plot = null;
let built = "";
let shown = [];

export function drawQuality() {
  const found = state.quality ? series() : [];
  const some = found.some((one) => one.closed.length || one.open.length);
  $("quality-figure").hidden = !some;
  show($("quality-empty"), some ? [] : why());
  if (!some) {
    show($("quality-table"));
    return;
  }
  shown = found.slice(0, MOST);
  const ordered = [...shown].sort((a, b) => a.name.localeCompare(b.name));
  shown.forEach((one) => (one.colour = ordered.indexOf(one)));
  chart();
  legend(null);
  const sentence = summary();
  show($("quality-caption"), sentence, found.length > MOST ? ` ${found.length - MOST} older versions are not drawn.` : "");
  $("quality-chart").setAttribute("aria-label", sentence);
  show($("quality-table"), details());
}

function why() {
  if (deserted()) return nothingYet();
  if (state.errors.quality) return empty(state.errors.quality.message, state.errors.quality.fix);
  if (!state.quality) return h("p", { class: "quiet" }, "Loading…");
  const known = about();
  if (known && known.metrics.length && !known.metrics.includes(state.metric)) {
    return empty(`No figures of ${state.metric}.`, `This model has ${known.metrics.join(", ")}.`);
  }
  if (known?.metrics.length) return empty("Nothing in this span of time.", "Choose a longer range above.");
  const predicts = known?.versions.some((one) => one.predictions > 0);
  return empty(
    predicts ? "Predictions come, but no outcome has been measured yet." : "No predictions have come yet.",
    predicts
      ? "A first figure needs labels with the same request_id. POST /v1/labels or produce to `labels`; Pipeline shows what joined."
      : "Produce to the topic `predictions`, keyed by request_id, or POST /v1/predictions.",
  );
}

function summary() {
  const serving = shown.filter((one) => one.role === "primary" && one.closed.length);
  const main = serving.find((one) => one.version === champion()) ?? serving[0] ?? shown[0];
  const last = main.last;
  const first = main.closed[0] ?? last;
  const change = last.value - first.value;
  const moved = first === last || first.value === null ? "" : `, ${Math.abs(change) < 0.0005 ? "as" : `${change > 0 ? "up" : "down"} ${figure(Math.abs(change))} since`} ${time(first.to_ms)}`;
  const open = main.open.at(-1);
  const maturing = open ? ` After that labels are still coming: ${share(open.maturity)} so far.` : "";
  const ahead = ["projected", "estimated"].map((kind) => main[kind].at(-1)).filter(Boolean).map((point) => ` ${foretold(point)}`).join("");
  const name = state.metric.replaceAll("_", " ");
  return `${name[0].toUpperCase()}${name.slice(1)} of ${main.version || "(no version)"} is ${interval(last)} with 95 %, over ${count(last.n)} outcomes up to ${time(last.to_ms)} ${zone.name}${moved}.${maturing}${ahead}`;
}

const BASIS = { projected: "From the labels so far", estimated: "From the scores alone" };

/** Say what a figure will be, and how such intervals fared. */
function foretold(point) {
  const known = point.low === null || point.low === undefined;
  const fared = point.scored ? ` Of ${count(point.scored)} such intervals (worth ${count(Math.floor(point.windows))} independent ones) ${share(point.coverage)} held.` : "";
  return `${BASIS[point.estimator]} it will be ${interval(point)}${known ? ", with no interval yet" : ` with ${share(point.level)}`}.${fared}`;
}

function legend(at) {
  const rows = shown.map((one) => {
    const points = [...one.closed, ...(one.projected.length ? one.projected : one.open)];
    const point = at === null ? one.last : points.filter((p) => p.to_ms <= at).at(-1);
    const role = one.role === "shadow" ? " (shadow)" : "";
    const text = point ? `${interval(point)}, n ${count(point.n)}, ${share(point.maturity)} of labels` : "–";
    return h("span", { "data-key": one.name }, sample(one.colour, DASHES[one.colour]), h("b", {}, `${one.version || "(no version)"}${role} `), text);
  });
  show($("quality-legend"), rows, at === null ? [] : h("span", { class: "quiet" }, `at ${clock(at)}`));
}

function details() {
  const rows = shown
    .flatMap((one) => [...one.closed, ...one.open, ...one.projected, ...one.estimated])
    .sort((a, b) => b.to_ms - a.to_ms)
    .slice(0, ROWS)
    .map((point) => ({ ...point, rowClass: point.closed ? null : "maturing" }));
  const happened = marks().filter((one) => one.at_ms >= since()).slice(-ROWS).reverse();
  return [
    h("details", { "data-key": "figures" }, h("summary", {}, "Show as table"),
      table(`The newest ${rows.length} figures of ${state.metric}`, [
        ["Window ends", (p) => time(p.to_ms), "nowrap"],
        ["Version", (p) => p.version],
        ["Value", (p) => figure(p.value), "num"],
        ["Interval", (p) => (p.low === null || p.low === undefined ? "–" : `${figure(p.low)} to ${figure(p.high)}`), "num"],
        ["n", (p) => count(p.n), "num"],
        ["Labels come", (p) => share(p.maturity), "num"],
        ["State", (p) => (p.estimator in BASIS ? p.estimator : p.closed ? (p.correction ? "closed, corrected" : "closed") : "still maturing")],
      ], rows)),
    h("details", { "data-key": "marks" }, h("summary", {}, `What happened (${happened.length})`),
      happened.length
        ? h("ul", { class: "said" }, happened.map((one) => h("li", {}, h("span", { class: one.kind }, `${one.icon} `), h("span", { class: "quiet" }, `${time(one.at_ms)} `), one.text)))
        : h("p", { class: "quiet" }, "No alarm, retrain or promotion in this span.")),
  ];
}

// --- the canvas

/** Give columns for uPlot: times, then per version value, low, high of what is closed and of what is open. */
function columns() {
  const pane = state.quality.pane_ms;
  const breaks = shown.map((one) => new Set(
    one.closed.slice(1).filter((p, n) => p.to_ms - one.closed[n].to_ms > 5 * pane).map((p) => p.to_ms - 1)));
  const times = [...new Set([...shown.flatMap((one) => [...one.closed, ...one.open, ...one.projected].map((p) => p.to_ms)), ...breaks.flatMap((set) => [...set])])].sort((a, b) => a - b);
  const place = new Map(times.map((at, n) => [at, n]));
  const data = [times];
  shown.forEach((one, index) => {
    const columns = Array.from({ length: 6 }, () => new Array(times.length));
    for (const at of breaks[index]) columns.slice(0, 3).forEach((column) => (column[place.get(at)] = null));
    const put = (point, from) => {
      const n = place.get(point.to_ms);
      [columns[from][n], columns[from + 1][n], columns[from + 2][n]] = [point.value, point.low ?? point.value, point.high ?? point.value];
    };
    one.closed.forEach((point) => put(point, 0));
    const end = one.projected.length ? one.projected : one.open;
    if (end.length) [one.closed.at(-1), ...end].filter(Boolean).forEach((point) => put(point, 3));
    data.push(...columns);
  });
  return data;
}

function chart() {
  const data = columns();
  const key = JSON.stringify([shown.map((one) => [one.name, one.colour]), state.metric, zone.name, document.documentElement.dataset.theme]);
  if (plot && key === built) {
    plot.setData(data);
    return;
  }
  built = key;
  plot?.destroy();
  plot = new window.uPlot(options(colours()), data, $("quality-chart"));
}

function options(colour) {
  const chartSeries = [{}];
  const bands = [];
  shown.forEach((one) => {
    const own = colour.series[one.colour];
    const at = chartSeries.length;
    const none = { stroke: "transparent", width: 0, points: { show: false } };
    chartSeries.push(
      { stroke: own, width: 2, dash: DASHES[one.colour], points: { show: false } }, none, none,
      { stroke: colour.quiet, width: 2, dash: [3, 3], points: { show: true, size: 5, stroke: colour.quiet, fill: colour.quiet } }, none, none,
    );
    bands.push({ series: [at + 2, at + 1], fill: faded(own, 0.16) }, { series: [at + 5, at + 4], fill: faded(colour.quiet, 0.14) });
  });
  return {
    ms: 1,
    ...size($("quality-chart")),
    series: chartSeries,
    bands,
    legend: { show: false },
    cursor: { points: { show: false }, drag: { x: false, y: false } },
    scales: {
      x: { time: true, range: (_, least, most) => {
        const wide = Math.max(most - least, 20 * state.quality.pane_ms);
        return [most - wide, most + wide * 0.01];
      } },
      y: { range: (_, least, most) => yRange(least, most) },
    },
    axes: [
      axis(colour, { size: 32, values: (u, ticks) => ticks.map((at) => tick(at, (ticks[1] ?? at) - ticks[0])) }),
      axis(colour, { size: 52, values: (_, ticks) => ticks.map((value) => figure(value, 2)) }),
    ],
    hooks: { draw: [(u) => drawMarks(u, colour)], setCursor: [(u) => legend(u.cursor.idx === null || u.cursor.idx === undefined ? null : u.data[0][u.cursor.idx])] },
  };
}

function yRange(least, most) {
  if (least === null || most === null) return [0, 1];
  const middle = (least + most) / 2;
  const half = Math.max((most - least) * 0.55, LEAST_SPAN / 2);
  const { least: bottom, most: top } = state.quality;
  return [bottom === null ? middle - half : Math.max(bottom, middle - half), top === null ? middle + half : Math.min(top, middle + half)];
}

function drawMarks(u, colour) {
  const { ctx } = u;
  const { left, top, width, height } = u.bbox;
  ctx.save();
  ctx.font = `${12 * devicePixelRatio}px system-ui`;
  ctx.textAlign = "center";
  for (const one of marks()) {
    if (one.at_ms < u.scales.x.min || one.at_ms > u.scales.x.max) continue;
    const x = u.valToPos(one.at_ms, "x", true);
    ctx.strokeStyle = ctx.fillStyle = colour[one.kind];
    ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(x, top + 14 * devicePixelRatio);
    ctx.lineTo(x, top + height);
    ctx.stroke();
    ctx.fillText(one.icon, x, top + 11 * devicePixelRatio);
  }
  const limit = about()?.decide_policy?.min_quality?.[state.metric];
  if (limit !== undefined && limit > u.scales.y.min && limit < u.scales.y.max) {
    const y = u.valToPos(limit, "y", true);
    ctx.strokeStyle = ctx.fillStyle = colour.warn;
    ctx.setLineDash([8 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(left, y);
    ctx.lineTo(left + width, y);
    ctx.stroke();
    ctx.textAlign = "left";
    ctx.fillText(`limit ${figure(limit, 2)}`, left + 4, y - 4 * devicePixelRatio);
  }
  ctx.restore();
}

/** Draw again after a change of size or colours. */
export function redraw() {
  built = "";
  if (state.quality) drawQuality();
}

new ResizeObserver(() => {
  if (plot && $("quality-chart").clientWidth && plot.width !== size($("quality-chart")).width) plot.setSize(size($("quality-chart")));
}).observe($("quality-chart"));
