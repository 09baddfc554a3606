// Slices, worst first: each one's interval beside the whole's, by how much worse it is at least.

import { $, empty, h, nothingYet, show, table, told } from "./dom.js";
import { count, figure, interval, share, time, zone } from "./format.js";
import { deserted, state } from "./state.js";

const DRAWN = 12;

export function drawSlices(choose) {
  show($("slices-body"), body(choose));
}

function body(choose) {
  if (deserted()) return nothingYet();
  if (state.errors.slices) return empty(state.errors.slices.message, state.errors.slices.fix);
  const found = state.slices;
  if (!found) return h("p", { class: "quiet" }, "Loading…");
  const name = found.metric.replaceAll("_", " ");
  if (!found.whole) return empty(`No closed window of ${name} yet, so there is nothing to hold slices against.`, "A window closes when its labels are due: Quality above says when.");
  if (!found.slices.length) {
    return found.dimension
      ? empty(`No slice by ${found.dimension} has a closed window of ${name}.`, `Predictions carry it in \`slices\`: {"${found.dimension}": …}. Some metrics are told of the whole alone.`)
      : empty("Nothing is measured by slice.", "Name a dimension of the predictions' `slices` as slice_dimension under [join] in weir.toml, then start the join anew.");
  }
  const said = sentence(found, name);
  const rows = found.slices.slice(0, DRAWN);
  return [
    h("p", {}, said),
    h("ol", { class: "lanes", "aria-label": `Slices of ${name}, the worst first` }, lanes(found, rows, choose)),
    h("p", { class: "quiet small" }, `Bar: the 95 % interval of each; behind it, in grey, the whole's. The order is by how much worse a slice is at least, so that small ones, which scatter most, do not stand first. A slice may be harder by nature: this is where to look, no alarm.`),
    found.slices.length > DRAWN ? h("p", { class: "quiet small" }, `The first ${DRAWN} of ${count(found.slices.length)} are drawn.`) : [],
    h("details", { "data-key": "slices" }, h("summary", {}, "Show as table"),
      table(`${count(found.slices.length)} slices of ${name}; bounds hold together with ${share(found.level)}`, [
        ["Slice", (s) => h("span", { class: "mono" }, s.slice), "text"],
        ["", (s) => verdict(s), "nowrap"],
        ["Value", (s) => figure(s.value), "num"],
        ["Interval", (s) => (s.low === null ? "–" : `${figure(s.low)} to ${figure(s.high)}`), "num"],
        ["Worse by", (s) => figure(s.gap), "num"],
        ["at least", (s) => figure(s.gap_low), "num"],
        ["n", (s) => count(s.n), "num"],
        ["Labels come", (s) => share(s.maturity), "num"],
        ["Window ends", (s) => time(s.to_ms), "nowrap"],
      ], found.slices, (s) => s.slice)),
  ];
}

function sentence(found, name) {
  const { whole, slices, better } = found;
  const worse = slices.filter((one) => one.worse).length;
  const of = `the whole, whose ${name} is ${interval(whole)} up to ${time(whole.to_ms)} ${zone.name}`;
  if (better === "neither") return `${name[0].toUpperCase()}${name.slice(1)} is neither better high nor low, so no slice is worse than ${of}.`;
  if (!worse) return `None of ${count(slices.length)} slices is worse than ${of}, as far as these figures can tell.`;
  return `${count(worse)} of ${count(slices.length)} slices ${worse === 1 ? "is" : "are"} worse than ${of}; with ${share(found.level)} all bounds hold at once.`;
}

function verdict(one) {
  if (one.gap_low === null) return told("none", "too few to tell");
  return one.worse ? told("bad", `worse by ${figure(one.gap_low)} at least`) : told("none", "not shown to be worse");
}

function lanes(found, rows, choose) {
  const { whole } = found;
  const ends = [whole, ...rows].flatMap((one) => [one.low ?? one.value, one.high ?? one.value]).filter((value) => value !== null);
  const least = Math.min(...ends);
  const wide = Math.max(Math.max(...ends) - least, 1e-9);
  const x = (value) => 1 + (98 * (value - least)) / wide;
  return rows.map((one) => h("li", { "data-key": one.slice },
    h("button", { type: "button", class: "link mono", onclick: () => choose(one.slice), title: "Show Quality and Thresholds of this slice" }, one.slice),
    strip(one, whole, x),
    h("span", { class: "small" }, `${interval(one)}, n ${count(one.n)} `),
    h("span", { class: "small" }, verdict(one))));
}

function strip(one, whole, x) {
  const known = one.low !== null && one.high !== null;
  const bar = (low, high) => ({ x: `${x(low)}%`, width: `${Math.max(x(high) - x(low), 0.4)}%` });
  return h("svg", { class: "lane", width: "100%", height: 20, "aria-hidden": "true" },
    whole.low === null || whole.value === null ? [] : h("rect", { class: "whole", y: 0, height: 20, ...bar(whole.low, whole.high) }),
    whole.value === null ? [] : h("line", { class: "mark", x1: `${x(whole.value)}%`, x2: `${x(whole.value)}%`, y1: 0, y2: 20 }),
    h("g", { class: one.worse ? "bad" : "c0" },
      known ? h("rect", { fill: "currentColor", y: 8, height: 4, rx: 2, ...bar(one.low, one.high) }) : [],
      one.value === null ? [] : h("circle", { fill: "currentColor", cx: `${x(one.value)}%`, cy: 10, r: 4.5 })));
}
