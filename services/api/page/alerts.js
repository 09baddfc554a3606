// Alerts: what fires, what fired, and whether it reached anybody.

import { $, empty, h, show, table, told } from "./dom.js";
import { count, tidy, time } from "./format.js";
import { current, fires, state } from "./state.js";

const KINDS = { critical: "bad", error: "bad", warning: "warn", info: "info" };

export function drawAlerts() {
  show($("alerts-body"), body());
}

function body() {
  if (state.errors.alerts) return empty(state.errors.alerts.message, state.errors.alerts.fix);
  if (!state.alerts) return h("p", { class: "quiet" }, "Loading…");
  const now = current();
  if (!now.length) return empty("No alert so far.", "`decide` alerts on drift, on figures below min_quality and on rollouts. It must run for this: see Pipeline.");
  const store = state.alerts.deliveries;
  return [
    grouped(now),
    table(`${now.filter(fires).length} firing; the newest state of each`, [
      ["State", (a) => (fires(a) ? told(KINDS[a.severity ?? "warning"], "fires") : told("good", "resolved")), "nowrap"],
      ["Severity", (a) => a.severity ?? "warning"],
      ["Rule", (a) => h("span", { class: "mono" }, a.rule), "nowrap"],
      ["What", (a) => tidy(a.summary), "text"],
      ["Since", (a) => time(a.at_ms), "nowrap"],
      ["Delivered", (a) => delivered(a, store), ""],
    ], now, (a) => a.fingerprint),
    store === null
      ? h("p", { class: "quiet small" }, "Deliveries are kept by `weir alert`; its store (alert.db) is not in this process's data directory.")
      : log(store),
  ];
}

/** One line for each model of which several things fire: the worst first, the others ranked beneath it. */
function grouped(now) {
  const marks = new Set(now.filter(fires).map((one) => one.fingerprint));
  const found = (state.alerts.incidents ?? []).map((one) => ({ ...one, parts: one.parts.filter((part) => marks.has(part.fingerprint)) })).filter((one) => one.parts.length > 1);
  return found.map((one) => h("details", { "data-key": `incident-${one.model}` },
    h("summary", {}, told(KINDS[one.severity] ?? "warn", `${count(one.parts.length)} alarms`), ` of ${one.model} since ${time(one.since_ms)}: ${tidy(one.summary)}`),
    h("ol", { class: "said" }, one.parts.map((part) => h("li", {}, told(KINDS[part.severity] ?? "warn", part.group), ` ${tidy(part.summary)}`, part.slice ? h("span", { class: "quiet" }, ` ${part.slice}`) : [])))));
}

function delivered(alert, store) {
  if (store === null) return "–";
  const own = store.deliveries.filter((one) => one.alert_id === alert.id);
  if (!own.length) return h("span", { class: "quiet" }, store.endpoints.length ? "–" : "to nobody");
  return own.map((one) => h("div", {}, fate(one), ` ${one.endpoint}`));
}

function fate(one) {
  if (one.state === "delivered") return told("good", "delivered");
  if (one.state === "dead") return told("bad", "given up");
  return one.attempts.length ? told("warn", `tried ${one.attempts.length}×`) : told("info", "on its way");
}

function log({ deliveries, endpoints }) {
  const disabled = endpoints.filter((one) => one.disabled_ms);
  if (!deliveries.length) return h("p", { class: "quiet small" }, "No delivery: no webhook is set (alert.webhooks), or nothing has been told.");
  return [disabled.map((one) => h("p", {}, told("bad", `${one.name} is disabled`), ` ${one.disabled_why}`)), h("details", { "data-key": "deliveries" }, h("summary", {}, `Deliveries (${count(deliveries.length)})`),
    table("Deliveries, the newest first", [
      ["State", fate, "nowrap"], ["To", (d) => d.endpoint], ["Rule", (d) => h("span", { class: "mono" }, `${d.rule} ${d.status}`)],
      ["Attempts", (d) => count(d.attempts.length), "num"], ["Answer", (d) => d.why || "–", "text"],
      ["Next try", (d) => time(d.next_attempt_ms), "nowrap"], ["Planned", (d) => time(d.created_ms), "nowrap"],
    ], deliveries, (d) => d.webhook_id))];
}
