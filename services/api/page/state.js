// What the page knows. History and stream bring the same events, so both go through the same functions, in any order
// and as often as they come.

export const state = {
  overview: null,
  model: "",
  metric: "accuracy",
  slice: "",
  window: "rolling",
  range: 86_400_000,
  costs: { cost_fp: 1, cost_fn: 1 }, // what a mistake costs, for the thresholds
  judged: "", // the version whose thresholds are shown; empty: the one that serves
  quality: null, // {points: Map, better, least, most, pane_ms}
  drift: null, // {streams: Map, alarms, budget}
  thresholds: null,
  slices: null,
  delay: null,
  rollout: null,
  alerts: null,
  pipeline: null,
  errors: {}, // panel → Failed
  line: { state: "connecting", detail: "" },
  paused: false,
};

const PANES = 60;
const KEPT = 4_000;

export const seriesOf = (point) => `${point.version}|${point.deployment}|${point.role ?? "primary"}`;

/** The namespace's time: its own clock where that is virtual, else this machine's. */
export function now() {
  const overview = state.overview;
  if (!overview) return Date.now();
  return overview.clock === "virtual" ? overview.now_ms : Date.now();
}

/** Whether nothing has been seen in this namespace at all. */
export const deserted = () => state.overview !== null && !state.overview.models.length;

export const about = () => state.overview?.models.find((one) => one.model === state.model) ?? null;
export const since = () => (state.range ? Math.max(0, now() - state.range) : 0);

/** Take up a figure. Of two about one window the later stands; an open window ends when it is closed. */
export function measured(point) {
  const quality = state.quality;
  if (!quality || point.metric && point.metric !== state.metric) return false;
  if ((point.slice ?? "") !== state.slice || (point.model && point.model !== state.model)) return false;
  const estimator = point.estimator ?? "realised";
  if (estimator !== "realised") {
    const place = `${seriesOf(point)}|${point.to_ms}|${estimator}`;
    if (quality.ahead.get(place)?.at_ms > point.at_ms) return false;
    quality.ahead.set(place, { role: "primary", maturity: 0, n: 0, scored: 0, level: 0.95, ...point, estimator });
    if (quality.ahead.size > KEPT * 2) forgetOldest(quality.ahead);
    return true;
  }
  const closed = point.closed ?? false;
  const single = point.to_ms - point.from_ms === quality.pane_ms;
  if (closed && single !== (state.window === "pane")) return false;
  const place = `${seriesOf(point)}|${point.to_ms}|${closed}`;
  const known = quality.points.get(place);
  if (known && known.at_ms > point.at_ms) return false;
  quality.points.set(place, { role: "primary", maturity: 0, n: 0, ...point, closed });
  if (state.overview?.clock === "virtual") state.overview.now_ms = Math.max(state.overview.now_ms, point.at_ms);
  if (quality.points.size > KEPT * 2) forgetOldest(quality.points);
  return true;
}

function forgetOldest(points) {
  const ordered = [...points.entries()].sort((a, b) => a[1].to_ms - b[1].to_ms);
  for (const [place] of ordered.slice(0, points.size - KEPT)) points.delete(place);
}

/** Give the series of a chart: closed points; open ones that are newer, and what was told of these ahead. */
export function series() {
  const found = new Map();
  for (const point of [...state.quality.points.values()].sort((a, b) => a.to_ms - b.to_ms)) {
    const name = seriesOf(point);
    if (!found.has(name)) found.set(name, { name, version: point.version, deployment: point.deployment, role: point.role, closed: [], open: [], projected: [], estimated: [] });
    found.get(name)[point.closed ? "closed" : "open"].push(point);
  }
  for (const point of [...state.quality.ahead.values()].sort((a, b) => a.to_ms - b.to_ms)) {
    found.get(seriesOf(point))?.[point.estimator]?.push(point);
  }
  for (const one of found.values()) {
    const settled = one.closed.at(-1)?.to_ms ?? 0;
    for (const kind of ["open", "projected", "estimated"]) one[kind] = one[kind].filter((point) => point.to_ms > settled);
    one.last = one.closed.at(-1) ?? one.open.at(-1);
  }
  return [...found.values()].sort((a, b) => b.last.to_ms - a.last.to_ms || a.name.localeCompare(b.name));
}

const CONTROLS = ["placebo", "injected"];

export function drifted(event) {
  const drift = state.drift;
  if (!drift || event.model !== state.model) return false;
  const place = [event.version, event.deployment, event.slice ?? "", event.stream, event.detector].join("|");
  if (CONTROLS.includes(event.detector)) {
    drift.controls.set(place, event);
    return true;
  }
  const known = drift.streams.get(place) ?? { latest: event, last_alarm: null, panes: [] };
  const far = event.distances ?? {};
  if (!known.panes.some((pane) => pane.to_ms === event.to_ms)) {
    known.panes.push({
      to_ms: event.to_ms,
      statistic: event.evidence.statistic ?? null,
      threshold: event.evidence.threshold ?? null,
      alarmed: event.alarmed ?? false,
      psi: far.psi ?? null, psi_q95: far.psi_q95 ?? null, ks: far.ks ?? null, ks_q95: far.ks_q95 ?? null,
    });
    known.panes.sort((a, b) => a.to_ms - b.to_ms).splice(0, Math.max(0, known.panes.length - PANES));
  }
  if (event.to_ms >= known.latest.to_ms) known.latest = event;
  if (event.alarmed && event.to_ms >= (known.last_alarm?.to_ms ?? 0)) known.last_alarm = event;
  if (event.alarmed && !drift.alarms.some((one) => one.id === event.id)) drift.alarms.unshift(event);
  drift.streams.set(place, known);
  return true;
}

const PLACES = {
  promote: ["promotions", (one) => `${one.endpoint}/${one.revision}`],
  gates: ["gates", (one) => one.layer],
  reviews: ["reviews", (one) => one.decision_id],
  candidates: ["candidates", (one) => `${one.version}/${one.retrain_id}`],
  retrain: ["retrains", (one) => one.retrain_id],
  approvals: ["approvals", (one) => JSON.stringify(one)],
  "rollout-status": ["servers", (one) => `${one.endpoint}/${one.server}`],
};

export function decided(topic, event) {
  if (!state.rollout || event.model !== state.model) return false;
  const [list, id] = PLACES[topic];
  const events = state.rollout[list];
  const index = events.findIndex((one) => id(one) === id(event));
  if (index >= 0 && events[index].at_ms > event.at_ms) return false;
  if (index >= 0) events.splice(index, 1);
  events.unshift(event);
  events.sort((a, b) => (b.revision ?? 0) - (a.revision ?? 0) || b.at_ms - a.at_ms);
  return index < 0;
}

export function alerted(event) {
  if (!state.alerts) return false;
  if (event.model && event.model !== state.model) return false;
  const known = state.alerts.alerts.some((one) => one.id === event.id);
  if (known) return false;
  state.alerts.alerts.unshift(event);
  state.alerts.alerts.sort((a, b) => b.at_ms - a.at_ms).splice(200);
  return true;
}

/** Give the latest review of a decision by the id of its event; null: its ground stands as it was. */
export const reviewOf = (id) => state.rollout?.reviews?.find((one) => one.decision_id === id) ?? null;

/** Give the newest alert of each fingerprint, those that fire first. */
export function current() {
  const found = new Map();
  for (const alert of state.alerts?.alerts ?? []) if (!found.has(alert.fingerprint)) found.set(alert.fingerprint, alert);
  return [...found.values()].sort((a, b) => fires(b) - fires(a) || b.at_ms - a.at_ms);
}

export const fires = (alert) => (alert.status ?? "firing") === "firing";

export const firing = (rule) => current().find((alert) => fires(alert) && alert.rule === rule) ?? null;

/** Give the version that serves: by the newest promotion the one with most traffic, the champion of two equals. */
export function champion() {
  const serving = state.rollout?.promotions[0]?.deployments.filter((one) => (one.role ?? "primary") === "primary") ?? [];
  return [...serving].sort((a, b) => b.weight - a.weight || (b.arm === "champion") - (a.arm === "champion"))[0]?.version ?? null;
}

/** Give the versions that get traffic, or shadow it, by the newest promotion of each endpoint; empty: nobody said. */
export function serving() {
  const newest = new Map();
  for (const one of state.rollout?.promotions ?? []) if (!newest.has(one.endpoint)) newest.set(one.endpoint, one);
  return new Set([...newest.values()].flatMap((one) => one.deployments.map((deployment) => deployment.version)));
}

/** What happened, for marks on a time axis. */
export function marks() {
  const found = [];
  const known = new Set(); // of features and the score the first alarm tells; of quality each one
  for (const alarm of [...(state.drift?.alarms ?? [])].sort((a, b) => a.at_ms - b.at_ms)) {
    const stream = `${alarm.stream}|${alarm.version}|${alarm.deployment}`;
    if (known.has(stream) && !alarm.stream.startsWith("quality")) continue;
    known.add(stream);
    found.push({ at_ms: alarm.to_ms, kind: "bad", icon: "▲", text: `drift alarm on ${alarm.stream} of ${alarm.version}` });
  }
  for (const one of state.rollout?.retrains ?? []) found.push({ at_ms: one.at_ms, kind: "info", icon: "↻", text: `retrain asked: ${one.reason}` });
  for (const one of state.rollout?.promotions ?? []) {
    const back = one.stage === "rollback";
    found.push({ at_ms: one.at_ms, kind: back ? "bad" : "good", icon: back ? "⟲" : "★", text: `${one.stage || "promote"}: ${one.reason || `revision ${one.revision}`}` });
  }
  return found.sort((a, b) => a.at_ms - b.at_ms);
}
