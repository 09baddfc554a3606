// Rollout: who serves what, in which stage, on which evidence, and the buttons of the person it waits for.

import { $, empty, h, nothingYet, show, table, told } from "./dom.js";
import { brief, count, figure, share, tidy, time } from "./format.js";
import { about, deserted, firing, reviewOf, state } from "./state.js";

const STAGES = ["shadow", "canary", "full"];
const WORDS = { pass: "good", fail: "bad", inconclusive: "warn", error: "bad" };

export function drawRollout(decide) {
  show($("rollout-body"), body(decide));
}

function body(decide) {
  if (deserted()) return nothingYet();
  if (state.errors.rollout) return empty(state.errors.rollout.message, state.errors.rollout.fix);
  const rollout = state.rollout;
  if (!rollout) return h("p", { class: "quiet" }, "Loading…");
  const waiting = firing("approval-needed");
  if (!rollout.promotions.length && !waiting) {
    return [mode(), corrected(rollout), empty("Nothing has been promoted.", "Weir observes what your own server serves. For rollouts, send a first `promote` for the endpoint (weir serve follows it), and a decide policy with automation.")];
  }
  const endpoints = new Map();
  for (const one of rollout.promotions) if (!endpoints.has(one.endpoint)) endpoints.set(one.endpoint, one);
  return [
    mode(),
    [...endpoints.values()].map((one) => endpoint(one, waiting, decide)),
    endpoints.size ? [] : beforeFirst(waiting, decide),
    evidence(rollout),
    corrected(rollout),
    history(rollout),
  ];
}

function mode() {
  const policy = about()?.decide_policy;
  const automation = policy?.automation ?? "observe";
  const text = {
    observe: "The policy only observes: nothing is retrained or promoted by itself.",
    retrain: "The policy retrains by itself; every stage of a promotion waits for a person.",
    full: "The policy retrains and promotes by itself, on evidence.",
  }[automation];
  return h("p", { class: "quiet small" }, text);
}

function endpoint(one, waiting, decide) {
  const stage = one.stage || "full";
  const underWay = stage === "shadow" || stage === "canary";
  return h("div", { "data-key": one.endpoint },
    h("p", {}, h("b", {}, `Endpoint ${one.endpoint}`), h("span", { class: "quiet" }, ` revision ${one.revision}, since ${time(one.at_ms)}`)),
    stage === "rollback"
      ? h("ol", { class: "steps" }, h("li", { class: "ended" }, "✕ rolled back: the champion alone"))
      : h("ol", { class: "steps" }, STAGES.map((name, n) => {
        const place = STAGES.indexOf(stage);
        const done = n < place || stage === "full";
        return h("li", { class: done ? "done" : null, "aria-current": n === place && !done ? "step" : null }, `${done ? "✓ " : ""}${name}`);
      })),
    weights(one.deployments),
    h("p", {}, one.reason || ""),
    servers(one),
    waiting ? h("p", {}, told("warn", "waits for a person"), ` ${tidy(waiting.summary)}`) : [],
    one.rollout_id && (underWay || stage === "full") || waiting ? buttons(one, underWay, waiting, decide) : []);
}

function beforeFirst(waiting, decide) {
  return h("div", {}, h("p", {}, told("warn", "waits for a person"), ` ${tidy(waiting.summary)}`), buttons(null, false, waiting, decide));
}

/** The id of the rollout that waits: the one under way, or the one that the alert names. */
function idOf(one, underWay, waiting) {
  if (underWay && one) return one.rollout_id;
  return waiting?.summary.match(/rollout-[0-9a-f]{32}/)?.[0] ?? one?.rollout_id ?? "";
}

function buttons(one, underWay, waiting, decide) {
  const id = idOf(one, underWay, waiting);
  if (!id) return [];
  const say = (decision) => () => decide(decision, id);
  if (!underWay && !waiting) return h("div", { class: "row" }, h("button", { type: "button", class: "danger", onclick: say("abort") }, "Abort: back to the champion before"));
  return h("div", { class: "row" },
    h("button", { type: "button", class: "primary", onclick: say("approve") }, "Approve the next stage"),
    h("button", { type: "button", onclick: say("reject") }, "Reject"),
    underWay ? h("button", { type: "button", class: "danger", onclick: say("abort") }, "Abort") : [],
    h("span", { class: "quiet mono", title: id }, brief(id)));
}

function weights(deployments) {
  const text = deployments.map((d) => `${d.deployment} ${(d.role ?? "primary") === "shadow" ? "in shadow" : share(d.weight)}`).join(", ");
  let at = 0;
  const parts = deployments.filter((d) => d.weight > 0).map((d, n) => {
    const from = at;
    at += d.weight * 100;
    return h("g", { class: `c${n % 6}` }, h("rect", { x: `${from}%`, y: 0, width: `${d.weight * 100}%`, height: 12, fill: "currentColor" }));
  });
  return h("div", {}, h("p", { class: "mono" }, text), h("svg", { width: "100%", height: 12, role: "img", "aria-label": `Traffic: ${text}` }, parts));
}

function servers(one) {
  const found = state.rollout.servers.filter((server) => server.endpoint === one.endpoint);
  if (!found.length) return h("p", { class: "quiet small" }, "No server has said that it follows.");
  return h("ul", { class: "said small" }, found.map((server) => {
    const behind = server.revision < one.revision;
    const [kind, word] = server.error ? ["bad", "cannot"] : server.converged && !behind ? ["good", "serves it"] : ["warn", "not yet"];
    return h("li", {}, told(kind, word), ` ${server.server}, revision ${server.revision}${server.error ? `: ${server.error}` : ""}`);
  }));
}

function evidence(rollout) {
  const current = rollout.promotions[0];
  const layer = current?.rollout_id && current.stage ? `${current.stage}:${current.rollout_id}` : null;
  const gate = rollout.gates.find((one) => one.layer === layer);
  const verdicts = current?.evidence ?? [];
  if (!gate && !verdicts.length) return [];
  return [
    h("h3", {}, "Evidence"),
    gate ? look(gate) : current.stage === "shadow" || current.stage === "canary" ? h("p", { class: "quiet" }, "No subject of this stage has been counted yet.") : [],
    h("ul", { class: "said" }, verdicts.map((one) => h("li", {}, told(WORDS[one.outcome] ?? "none", one.outcome), ` ${one.sentence || one.gate}`))),
  ];
}

/** Mark what was decided on labels that were corrected since. */
function mark(reviews) {
  const found = reviews.filter(Boolean);
  if (!found.length) return [];
  return found.some((one) => !one.stands) ? told("bad", "would not stand as corrected") : told("info", "corrected since");
}

/** Decisions whose ground was corrected: the figure then and now. */
function corrected(rollout) {
  const found = rollout.reviews ?? [];
  if (!found.length) return [];
  const columns = [
    ["Decided", (r) => time(r.decided_ms), "nowrap"],
    ["On", (r) => `${r.name}${r.version ? ` of ${r.version}` : ""}`, "text"],
    ["Then", (r) => figure(r.then.value), "num"],
    ["Now", (r) => figure(r.now.value), "num"],
    ["As corrected", (r) => told(r.stands ? "good" : "bad", r.stands ? "would stand" : "would not stand"), "nowrap"],
  ];
  return h("details", { "data-key": "reviews", open: found.some((one) => !one.stands) },
    h("summary", {}, `Decided on figures that were corrected (${found.length})`),
    h("p", { class: "quiet small" }, "Labels changed after these decisions. Nothing is undone by itself."),
    table("Decisions whose ground was corrected, the newest first", columns, found, (r) => r.decision_id));
}

const ofRollout = (rollout, id) => (id ? (rollout.reviews ?? []).filter((one) => one.layer?.endsWith(`:${id}`)) : []);

function look(gate) {
  const facts = [
    ["effect", gate.effect === undefined || gate.effect === null ? "–" : figure(gate.effect)],
    ["at least", gate.low === undefined || gate.low === null ? "–" : figure(gate.low)],
    ["at most", gate.high === undefined || gate.high === null ? "–" : figure(gate.high)],
    ["for it", `${figure(gate.e_above ?? 1, 1)} of ${figure(1 / gate.alpha, 0)}`],
    ["against it", `${figure(gate.e_below ?? 1, 1)} of ${figure(1 / gate.alpha_rollback, 0)}`],
    ["subjects", count(gate.n ?? 0)],
  ];
  return h("div", {}, h("dl", { class: "figures" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    h("p", {}, gate.sentence ?? "", " ", mark((state.rollout.reviews ?? []).filter((one) => one.layer === gate.layer))),
    h("p", { class: "quiet small" }, `Challenger minus champion, valid at every look; ${share(gate.maturity ?? 0)} of the subjects seen are counted. Latest look ${time(gate.at_ms)}.`));
}

function history(rollout) {
  const log = [
    ...rollout.promotions.map((one) => [one.at_ms, "promote", `${one.stage || "set"}: ${one.reason || one.deployments.map((d) => d.version).join(", ")}`, ofRollout(rollout, one.rollout_id)]),
    ...rollout.retrains.map((one) => [one.at_ms, "retrain", `${one.reason} (attempt ${one.attempt ?? 1})`, (one.drift_ids ?? []).map(reviewOf)]),
    ...rollout.candidates.map((one) => [one.at_ms, "candidate", one.error ? `${one.version}: ${one.error}` : `${one.version}, ${count(one.rows ?? 0)} rows${held(one)}`]),
    ...rollout.approvals.map((one) => [one.at_ms, one.decision, `${one.by || "somebody"}${one.note ? `: ${one.note}` : ""}`]),
  ].sort((a, b) => b[0] - a[0]).slice(0, 40);
  if (!log.length) return [];
  return h("details", { "data-key": "log", open: log.length <= 8 }, h("summary", {}, `What led here (${log.length})`),
    table("Retrains, candidates, promotions and what people said, the newest first", [["When", (r) => time(r[0]), "nowrap"], ["What", (r) => r[1]], ["Why", (r) => [r[2], " ", mark(r[3] ?? [])], "text"]], log));
}

function held(one) {
  const of = (list) => list?.find((metric) => metric.metric === state.metric) ?? list?.[0];
  const own = of(one.metrics);
  const champion = one.champion?.find((metric) => metric.metric === own?.metric);
  if (!own) return "";
  const base = Object.entries(one.baselines ?? {}).map(([name, value]) => `, ${name} ${figure(value)}`).join("");
  return `; hold-out ${own.metric} ${figure(own.value)}${champion ? `, champion ${figure(champion.value)}` : ""}${base}`;
}
