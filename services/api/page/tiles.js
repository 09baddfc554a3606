// The row on top: one tile per question, each with a state, a value and the reason.

import { $, h, show, told } from "./dom.js";
import { count, figure, share, short, span, tidy } from "./format.js";
import { health } from "./pipeline.js";
import { about, champion, current, fires, firing, series, state } from "./state.js";

export function drawTiles() {
  show($("tiles"), [quality(), drift(), labels(), rollout(), alerts(), pipeline()]);
}

function tile(name, link, [kind, word], value, why) {
  return h("a", { class: `tile ${kind}`, href: link, "data-key": name },
    h("span", { class: "name" }, name, told(kind, word)), h("div", { class: "value" }, value), h("div", { class: "why" }, why));
}

const cut = (text) => (text.length > 84 ? `${text.slice(0, 83)}…` : text);

function quality() {
  const found = state.quality ? series().filter((one) => one.role === "primary" && one.closed.length) : [];
  if (!found.length) return tile("Quality", "#quality", ["none", "unknown"], "–", "no closed window yet");
  const { last, version } = found.find((one) => one.version === champion()) ?? found[0];
  const half = last.low === undefined || last.low === null ? null : (last.high - last.low) / 2;
  const limit = about()?.decide_policy?.min_quality?.[state.metric];
  const alarm = firing("drift:quality:error") ?? firing(`quality:${state.metric}`);
  const below = limit !== undefined && last.high < limit;
  const kind = alarm || below ? ["bad", alarm ? "alarm" : "below limit"] : ["good", "no alarm"];
  return tile("Quality", "#quality", kind, `${figure(last.value)}${half === null ? "" : ` ± ${figure(half)}`}`, `${state.metric} of ${version || "–"}, n ${short(last.n)}, ${share(last.maturity)} of labels`);
}

function drift() {
  const streams = [...(state.drift?.streams.values() ?? [])];
  const version = about()?.references.find((one) => streams.some((s) => s.latest.version === one.version))?.version;
  if (!streams.length) return tile("Drift", "#drift", ["none", "unknown"], "–", "no reference, or no closed pane");
  const firingNow = current().filter((alert) => fires(alert) && alert.rule.startsWith("drift:"));
  const of = new Set(streams.map((one) => one.latest.stream)).size;
  const names = firingNow.map((alert) => alert.rule.slice(6)).join(", ");
  return tile("Drift", "#drift", firingNow.length ? ["bad", "alarm"] : ["good", "steady"], `${firingNow.length} of ${of}`, names || `streams in alarm; reference ${version ?? "–"}`);
}

function labels() {
  const { delay } = state;
  if (!delay?.predicted) return tile("Labels", "#feedback", ["none", "unknown"], "–", "no predictions in this span");
  const p50 = delay.quantiles.p50;
  return tile("Labels", "#feedback", delay.labelled ? ["good", "come"] : ["warn", "none"], share(delay.labelled / delay.predicted), `of ${short(delay.predicted)} predictions; ${p50 === null ? "fewer than half ever" : `half after ${span(p50)}`}`);
}

function rollout() {
  const newest = state.rollout?.promotions[0];
  const waiting = firing("approval-needed");
  if (!newest) return tile("Rollout", "#rollout", waiting ? ["warn", "waits"] : ["none", "none"], "–", waiting ? cut(tidy(waiting.summary)) : "nothing was promoted");
  const stage = newest.stage || "full";
  const kind = waiting ? ["warn", "waits"] : stage === "rollback" ? ["bad", "back"] : stage === "full" ? ["good", "settled"] : ["info", "under way"];
  const serving = newest.deployments.map((d) => `${d.version} ${(d.role ?? "primary") === "shadow" ? "shadow" : share(d.weight)}`).join(", ");
  return tile("Rollout", "#rollout", kind, stage, serving);
}

function alerts() {
  if (!state.alerts) return tile("Alerts", "#alerts", ["none", "unknown"], "–", "loading");
  const now = current().filter(fires);
  const worst = ["critical", "error", "warning", "info"].find((name) => now.some((alert) => (alert.severity ?? "warning") === name));
  const kind = !now.length ? ["good", "quiet"] : worst === "info" ? ["info", "news"] : worst === "warning" ? ["warn", "warning"] : ["bad", worst];
  return tile("Alerts", "#alerts", kind, count(now.length), now.length ? cut(tidy(now[0].summary)) : "nothing fires");
}

function pipeline() {
  if (!state.pipeline) return tile("Pipeline", "#pipeline", ["none", "unknown"], "–", state.errors.pipeline?.message ?? "loading");
  const seen = state.pipeline.processes.filter((one) => one.state !== "not seen");
  const lag = seen.reduce((sum, one) => sum + one.lag, 0);
  const ill = seen.filter((one) => ["bad", "warn"].includes(health(one)[0]));
  const found = state.pipeline.residual.by_input;
  const lost = found ? Object.values(found).some(Boolean) : false;
  const dead = state.pipeline.dead_letters.reasons.reduce((sum, one) => sum + one.n, 0);
  const frozen = (state.pipeline.sources ?? []).filter((one) => one.state === "frozen");
  const kind = lost ? ["bad", "residual"] : frozen.length ? ["bad", "labels frozen"] : ill.length ? ["warn", ill[0].process] : ["good", "keeps up"];
  return tile("Pipeline", "#pipeline", kind, `lag ${short(lag)}`, `${found ? (lost ? "something was lost" : "residual 0") : "residual unknown"}, ${count(dead)} dead letters`);
}
