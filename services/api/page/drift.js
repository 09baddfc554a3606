// Drift: a row per stream with what the detector says, the distances beside what chance alone would give, and a strip.

import { $, empty, h, nothingYet, show, table, told } from "./dom.js";
import { clock, count, figure, span, time } from "./format.js";
import { about, deserted, firing, serving, state } from "./state.js";

export function drawDrift() {
  show($("drift-body"), body());
}

function body() {
  if (deserted()) return nothingYet();
  if (state.errors.drift) return empty(state.errors.drift.message, state.errors.drift.fix);
  if (!state.drift) return h("p", { class: "quiet" }, "Loading…");
  const rows = [...state.drift.streams.values()].map(judged).sort((a, b) => b.rank - a.rank || a.stream.localeCompare(b.stream));
  const compared = rows.filter((row) => row.latest.detector !== "surge");
  if (!compared.length) return [whyNothing(), rows.length ? table("Traffic beside what is usual", columns(), rows, (r) => r.key) : []];
  const served = serving();
  const old = served.size ? rows.filter((row) => !served.has(row.version)) : [];
  const fresh = rows.filter((row) => !old.includes(row));
  const { false_alarms, period_ms } = state.drift.budget;
  return [
    fresh.length ? table("Each stream against the reference of its version", columns(), fresh, (r) => r.key) : empty("No stream of the version that serves is watched yet.", "Its first panes have to close."),
    h("div", { class: "key" }, h("span", {}, h("i"), "as the reference"), h("span", {}, h("i", { class: "h1" }), "more than chance"), h("span", {}, h("i", { class: "h2" }), "twice"),
      h("span", {}, h("i", { class: "h3" }), "four times"), h("span", {}, h("i", { class: "h4" }), "eight times"), h("span", {}, "▲ alarm")),
    h("p", { class: "quiet small" }, `Alarms come from the evidence alone, at most ${figure(false_alarms, 2)} false ones expected per ${span(period_ms)} over all models and streams. `,
      "PSI and KS are shown with what chance gives 95 times in 100; beyond it something moved, and whether it matters the evidence says. Of quality the strip shows how near the evidence was to an alarm."),
    h("details", { "data-key": "sentences" }, h("summary", {}, "What the detectors say"),
      h("ul", { class: "said" }, fresh.map((r) => h("li", {}, h("b", {}, `${r.stream} `), r.latest.evidence.sentence || "no sentence")))),
    controls(),
    old.length ? h("details", { "data-key": "old" }, h("summary", {}, `Versions that no longer serve (${old.length} streams)`), table("Streams of versions that no longer serve, as they ended", columns(), old, (r) => r.key)) : [],
  ];
}

/** Say whether the alarms themselves can be believed: where nothing changed, and where a change was put in. */
function controls() {
  const found = [...state.drift.controls.values()].filter((one) => !serving().size || serving().has(one.version)).sort((a, b) => a.stream.localeCompare(b.stream));
  if (!found.length) return [];
  const word = { pass: ["good", "as promised"], fail: ["bad", "not as promised"], error: ["bad", "error"], inconclusive: ["none", "too early"] };
  return h("details", { "data-key": "controls" }, h("summary", {}, "Can the alarms be believed?"),
    h("p", { class: "quiet small" }, "The placebo compares subjects that a coin has split, so nothing can differ: its alarms are the machinery's own. Injected changes go into a copy of the stream: what is not found there would not be found here."),
    h("ul", { class: "said" }, found.map((one) => h("li", {}, told(...word[one.evidence.outcome]), h("b", {}, ` ${one.stream} `), `${one.version}: ${one.evidence.sentence}`))));
}

/** Say what became of a stream's alarms. */
function worth(row) {
  const past = row.latest.history ?? {};
  if (!past.alarms) return row.last_alarm ? time(row.last_alarm.at_ms) : "none";
  const last = row.last_alarm ? time(row.last_alarm.at_ms) : "–";
  return `${last}; ${count(past.alarms)} so far: ${count(past.benign)} benign, ${count(past.harmful)} harmful`;
}

const columns = () => [
  ["State", (r) => told(r.kind, r.word), "nowrap"],
  ["Stream", (r) => h("span", {}, h("b", {}, r.stream), ` ${r.version}`), ""],
  ["Evidence", (r) => evidence(r), "nowrap"],
  ["PSI (by chance up to)", (r) => distance(r.far.psi, r.far.psi_q95), "num"],
  ["KS (by chance up to)", (r) => distance(r.far.ks, r.far.ks_q95), "num"],
  ["n", (r) => count(r.latest.evidence.n), "num"],
  ["Last alarm", (r) => worth(r), "nowrap"],
  ["Last panes", (r) => strip(r)],
];

function whyNothing() {
  const known = about();
  const version = known?.versions[0]?.version;
  if (!known?.versions.length) return empty("Nothing to compare yet.", "Drift is watched once predictions come.");
  if (!known.references.some((one) => one.version === version)) {
    return empty(`Version ${version || "(none)"} has no reference, so nothing is watched and nothing alarms.`,
      "A reference comes with a candidate of `weir train`. For any other model: `weir reference learn MODEL`, from a week of its traffic or from a file; `weir reference ls` says how far it is.");
  }
  return empty("The reference is known, but no pane has closed since.", `A pane is ${span(state.overview.pane_ms)} long; score and features close shortly after its end, quality after the labels' deadline.`);
}

function judged(one) {
  const { latest, last_alarm: lastAlarm } = one;
  const { statistic = null, threshold = null } = latest.evidence;
  const ratio = statistic !== null && threshold ? statistic / threshold : null;
  const far = latest.distances ?? {};
  const alarm = firing(`drift:${latest.stream}`.slice(0, 128));
  const alarmed = latest.alarmed || (alarm !== null && lastAlarm !== null); // it alarmed, and its alert has not ended
  const moved = far.psi > far.psi_q95 || far.ks > far.ks_q95 || far.mmd2 > far.mmd2_q95 || far.differ > 0;
  const [kind, word, rank] = alarmed ? ["bad", "alarm", 4] : ratio > 0.5 ? ["warn", "rising", 3] : moved ? ["info", "moved", 2] : ["good", "steady", 1];
  const key = [latest.version, latest.deployment, latest.slice ?? "", latest.stream, latest.detector].join("|");
  return { ...one, key, stream: latest.stream, version: latest.version, last_alarm: lastAlarm, ratio, far, kind, word, rank };
}

function evidence(row) {
  const { statistic = null, threshold = null } = row.latest.evidence;
  if (statistic === null) return "–";
  const said = `${figure(statistic, 2)} of ${threshold === null ? "–" : figure(threshold, 0)}`;
  return h("span", {}, threshold ? h("meter", { min: 0, max: 1, high: 0.5, optimum: 0, value: Math.min(1, Math.max(0, row.ratio)), "aria-label": said }, said) : [], ` ${said}`);
}

function distance(value, limit) {
  if (value === undefined || value === null) return "–";
  const text = `${figure(value)} (${limit === undefined || limit === null ? "–" : figure(limit)})`;
  return value > limit ? h("b", {}, text) : text;
}

/** Give 0 to 4: by how much a pane's window lies beyond chance, or, for quality, how near it is to an alarm. */
function level(pane) {
  if (pane.psi !== null && pane.psi_q95) {
    const ratio = pane.psi / pane.psi_q95;
    return ratio >= 8 ? 4 : ratio >= 4 ? 3 : ratio >= 2 ? 2 : ratio > 1 ? 1 : 0;
  }
  const ratio = pane.threshold ? (pane.statistic ?? 0) / pane.threshold : 0;
  return ratio >= 0.8 ? 4 : ratio >= 0.5 ? 3 : ratio >= 0.2 ? 2 : ratio > 0.05 ? 1 : 0;
}

function strip(row) {
  const panes = row.panes.slice(-40);
  const wide = 4;
  const worst = Math.max(...panes.map(level));
  const words = ["as the reference", "more than chance", "twice chance", "four times chance", "eight times chance"];
  const label = panes.length ? `${panes.length} panes from ${clock(panes[0].to_ms)} to ${clock(panes.at(-1).to_ms)}, at most ${words[worst]}, ${panes.filter((p) => p.alarmed).length} alarms` : "no panes";
  return h("svg", { class: "strip", role: "img", "aria-label": label, width: 40 * wide, height: 22, viewBox: `0 0 ${40 * wide} 22` },
    panes.map((pane, n) => [
      h("rect", { x: n * wide, y: 6, width: wide - 0.6, height: 16, class: `h${level(pane)}` }),
      pane.alarmed ? h("path", { d: `M${n * wide - 1} 5l3-5 3 5z` }) : [],
    ]));
}
