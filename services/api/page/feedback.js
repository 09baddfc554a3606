// Feedback: how long labels take (among all predictions, those that still wait counted rightly), and who still waits.

import { $, empty, h, nothingYet, show, table } from "./dom.js";
import { count, share, span, time } from "./format.js";
import { about, deserted, state } from "./state.js";

const WIDTH = innerWidth < 640 ? 350 : 560; // text in a drawing shrinks with it
const HEIGHT = 190;
const LEFT = 40;
const BOTTOM = 24;

export function drawFeedback() {
  show($("feedback-body"), body());
}

function body() {
  if (deserted()) return nothingYet();
  if (state.errors.delay) return empty(state.errors.delay.message, state.errors.delay.fix);
  const delay = state.delay;
  if (!delay) return h("p", { class: "quiet" }, "Loading…");
  if (!delay.predicted) return empty("No predictions in this span of time.", "Choose a longer range above, or produce to `predictions`.");
  const { p50, p90, p95 } = delay.quantiles;
  const never = (ms) => (ms === null ? "not reached" : span(ms));
  const facts = h("dl", { class: "figures" }, [
    ["predictions", count(delay.predicted)], ["with a label", `${share(delay.labelled / delay.predicted)}`],
    ["half have it after", never(p50)], ["90 % after", never(p90)], ["95 % after", never(p95)],
  ].map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  if (!delay.labelled) {
    return [facts, empty("No label has come for these predictions.", "Labels carry the request_id of their prediction: POST /v1/labels, or produce to `labels`. If some were sent, look for orphans under Pipeline.")];
  }
  const policy = about()?.join_policy;
  return [
    facts,
    h("figure", {}, curve(delay, policy), h("figcaption", {}, sentence(delay, policy))),
    h("h3", {}, "Cohorts by time of prediction"),
    cohorts(delay.cohorts),
    h("details", { "data-key": "cohorts" }, h("summary", {}, "Show as table"),
      table("Labels by time of prediction", [
        ["Predicted from", (c) => time(c.from_ms), "nowrap"], ["to", (c) => time(c.to_ms), "nowrap"],
        ["Predictions", (c) => count(c.predicted), "num"], ["Labelled", (c) => count(c.labelled), "num"], ["Share", (c) => share(c.labelled / c.predicted), "num"],
      ], delay.cohorts),
      table("Share of predictions with a label, by age", [["Age", (p) => span(p.age_ms), "num"], ["Share", (p) => share(p.share), "num"]], delay.curve)),
    h("details", { "data-key": "outcomes" }, h("summary", {}, "Outcomes by kind"),
      table("Last revision of each outcome", [
        ["Status", (o) => o.status], ["Label from", (o) => o.kind || "–"], ["Outcomes", (o) => count(o.n), "num"], ["Revised since", (o) => count(o.revised), "num"],
      ], delay.outcomes)),
  ];
}

function sentence(delay, policy) {
  const last = delay.curve.at(-1);
  const reach = last ? `${share(last.share)} of predictions have a label after ${span(last.age_ms)}. ` : "";
  const wait = policy ? (policy.horizon_ms ?? 3_600_000) + (policy.lateness_ms ?? 300_000) : null;
  return `${reach}${wait ? `The policy waits ${span(wait)}. ` : ""}Predictions too young to have been answered are counted as waiting, not as missing.`;
}

function curve(delay, policy) {
  const points = delay.curve;
  const first = Math.max(1, points[0].age_ms / 2);
  const wait = policy ? (policy.horizon_ms ?? 3_600_000) + (policy.lateness_ms ?? 300_000) : 0;
  const last = Math.max(points.at(-1).age_ms * 2, wait * 1.1);
  const x = (ms) => LEFT + ((Math.log(ms) - Math.log(first)) / (Math.log(last) - Math.log(first))) * (WIDTH - LEFT - 8);
  const y = (value) => HEIGHT - BOTTOM - value * (HEIGHT - BOTTOM - 8);
  let path = `M${x(first)} ${y(0)}`;
  for (const point of points) path += `H${x(point.age_ms).toFixed(1)}V${y(point.share).toFixed(1)}`;
  path += `H${x(last).toFixed(1)}`;
  const ticks = [1, 10, 100, 1e3, 1e4, 6e4, 6e5, 3.6e6, 2.16e7, 8.64e7, 6.048e8].filter((ms) => ms >= first && ms <= last);
  return h("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: "100%", role: "img", "aria-label": `Share of predictions with a label by age. ${sentence(delay, policy)}` },
    [0, 0.5, 1].map((value) => [
      h("line", { class: "axis", x1: LEFT, x2: WIDTH, y1: y(value), y2: y(value) }),
      h("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, share(value)),
    ]),
    ticks.map((ms) => h("text", { x: x(ms), y: HEIGHT - 6, "text-anchor": "middle" }, span(ms))),
    wait && wait > first ? [h("line", { class: "mark", x1: x(wait), x2: x(wait), y1: 8, y2: HEIGHT - BOTTOM }), h("text", { x: x(wait) + 4, y: HEIGHT - BOTTOM - 6 }, "deadline")] : [],
    h("path", { class: "curve", d: path }));
}

function cohorts(rows) {
  const wide = WIDTH / Math.max(rows.length, 1);
  const most = Math.max(...rows.map((one) => one.predicted));
  const tall = 64;
  const label = rows.map((one) => `${time(one.from_ms)}: ${share(one.labelled / one.predicted)} of ${one.predicted}`).join("; ");
  return h("svg", { class: "bars", viewBox: `0 0 ${WIDTH} ${tall + 16}`, width: "100%", role: "img", "aria-label": `Share labelled by time of prediction. ${label}` },
    rows.map((one, n) => {
      const whole = (one.predicted / most) * tall;
      const part = (Math.min(one.labelled, one.predicted) / most) * tall;
      return [
        h("rect", { x: n * wide + 2, y: tall - part, width: wide - 4, height: part }),
        h("rect", { class: "whole", x: n * wide + 2, y: tall - whole + 0.5, width: wide - 4, height: Math.max(whole - 1, 0) }),
        h("text", { x: (n + 0.5) * wide, y: tall + 13, "text-anchor": "middle" }, share(one.labelled / one.predicted)),
      ];
    }));
}
