// Pipeline: who is behind and by how much, what could not be used, and whether anything was lost.

import { $, empty, h, show, table, told } from "./dom.js";
import { count, figure, span, time } from "./format.js";
import { state } from "./state.js";

const BEHIND = 1_000;

export function drawPipeline() {
  show($("pipeline-body"), body());
}

function body() {
  if (state.errors.pipeline) return empty(state.errors.pipeline.message, state.errors.pipeline.fix);
  const pipeline = state.pipeline;
  if (!pipeline) return h("p", { class: "quiet" }, "Loading…");
  return [residual(pipeline.residual), h("h3", {}, "Processes"), processes(pipeline.processes), h("h3", {}, "Label sources"), sources(pipeline.sources), h("h3", {}, "Dead letters"), letters(pipeline.dead_letters), h("h3", {}, "Topics"), topics(pipeline.topics)];
}

/** How a process does: by its group's state and its lag. */
export function health(one) {
  if (one.state === "not seen") return ["none", "not seen"];
  if (one.state !== "stable" && one.topics.length) return one.lag > 2 ? ["bad", "stopped, work waits"] : ["warn", "stopped"];
  return one.lag > BEHIND ? ["warn", "behind"] : ["good", "keeps up"];
}

function residual(found) {
  if (!found.by_input) return h("p", {}, told("none", "residual unknown"), h("span", { class: "quiet" }, " until the join has counted something that has landed."));
  const sum = Object.values(found.by_input).reduce((a, b) => a + Math.abs(b), 0);
  const parts = Object.entries(found.by_input).map(([name, value]) => `${name} ${count(value)}`).join(", ");
  return [
    h("p", {}, sum ? told("bad", `residual ${count(sum)}`) : told("good", "residual 0"), h("span", { class: "quiet" }, ` What the join counted minus what landed: ${parts}.`)),
    found.places.length ? h("ul", { class: "said" }, found.places.map((one) => h("li", {}, `${one.topic}[${one.partition}] below offset ${one.offset}: counted ${count(one.counted)}, landed ${count(one.landed)}. Run weir verify.`))) : [],
  ];
}

function processes(rows) {
  const flat = rows.flatMap((one) => one.topics.map((topic) => ({ process: one.process, ...topic })));
  return [
    table("Lag: offsets not yet committed, asked from outside", [
      ["Process", (r) => h("b", {}, r.process)],
      ["State", (r) => told(...health(r)), "nowrap"],
      ["Lag", (r) => (r.topics.length ? count(r.lag) : "–"), "num"],
      ["Where", (r) => where(r), "text"],
    ], rows, (r) => r.process),
    flat.length ? h("details", { "data-key": "lags" }, h("summary", {}, "Lag by topic and partition"),
      table("Offsets not yet committed, by partition", [
        ["Process", (r) => r.process], ["Topic", (r) => r.topic], ["Lag", (r) => count(r.lag), "num"],
        ["By partition", (r) => h("span", { class: "mono" }, r.partitions.map((p) => `${p.partition}: ${p.lag}`).join(", "))],
      ], flat, (r) => `${r.process}/${r.topic}`)) : [],
    h("p", { class: "quiet small" }, "A marker of a transaction counts as an offset: a process that reads event by event may show one or two when idle."),
  ];
}

function where(one) {
  const behind = one.topics.filter((topic) => topic.lag);
  if (one.state === "not seen") return h("span", { class: "quiet" }, "it has never committed an offset in this namespace");
  return behind.map((topic) => `${topic.topic} ${count(topic.lag)}`).join(", ") || `all of ${one.topics.length} topics read`;
}

/** What the outage guard says of a source: its state in a word, and whether that is good. */
function guarded(one) {
  if (one.state === "frozen") return ["bad", `frozen by ${one.by || "hand"}`];
  if (one.state === "learning") return ["none", `learning, ${span(one.learnt_ms ?? 0)} of ${span(one.warm_up_ms)}`];
  return one.state === "small" ? ["none", "too small"] : ["good", "flows"];
}

function sources(rows) {
  if (!rows.length) return h("p", { class: "quiet" }, "No label has met a prediction yet.");
  const judged = (r, what) => (r.window_ms && r.bound ? what() : "–");
  return table("Labels that came and that were due; a source that is cut off in all arms is frozen", [
    ["Source", (r) => h("b", {}, r.source || "(without a name)")],
    ["State", (r) => told(...guarded(r)), "nowrap"],
    ["Since", (r) => (r.state === "frozen" ? time(r.since_ms) : "–"), "nowrap"],
    ["In the last", (r) => judged(r, () => span(r.window_ms)), "nowrap"],
    ["Came", (r) => judged(r, () => count(r.seen ?? 0)), "num"],
    ["Were due", (r) => judged(r, () => figure(r.expected)), "num"],
    ["At least", (r) => judged(r, () => count(r.bound)), "num"],
    ["Arms", (r) => count(r.arms?.length ?? 0), "num"],
    ["In words", (r) => r.sentence, "text"],
  ], rows, (r) => r.source);
}

function letters({ reasons, newest }) {
  if (!reasons.length) return h("p", {}, told("good", "none"), h("span", { class: "quiet" }, " Every input could be used."));
  return [
    table("What could not be used, by reason", [
      ["Count", (r) => count(r.n), "num"], ["Reason", (r) => h("span", { class: "mono" }, r.reason)], ["Topic", (r) => r.topic], ["Example", (r) => r.detail, "text"], ["Last", (r) => time(r.last_ms), "nowrap"],
    ], reasons, (r) => `${r.reason}/${r.topic}/${r.stage}`),
    h("details", { "data-key": "newest" }, h("summary", {}, "The newest"),
      table("Look at one with weir dlq show ID, send it again with weir dlq retry ID", [
        ["Id", (r) => h("span", { class: "mono" }, r.id)], ["Reason", (r) => r.reason], ["Request", (r) => h("span", { class: "mono" }, r.request_id || "–")], ["Detail", (r) => r.detail, "text"], ["When", (r) => time(r.at_ms), "nowrap"],
      ], newest, (r) => r.id)),
  ];
}

function topics(rows) {
  return h("details", { "data-key": "topics" }, h("summary", {}, `${rows.length} topics`),
    table("Topics of the namespace", [
      ["Topic", (r) => h("b", {}, r.topic)], ["Holds", (r) => r.about, "text"], ["Partitions", (r) => (r.missing ? told("bad", "missing") : count(r.partitions)), "num"],
      ["End", (r) => count(r.end), "num"], ["Kept", (r) => count(r.kept), "num"],
    ], rows, (r) => r.topic));
}
