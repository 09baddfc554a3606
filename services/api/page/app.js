// The page: token, choices, what is fetched when, what the stream changes, and drawing at a pace that people can read.

import { drawAlerts } from "./alerts.js";
import { $, h, show } from "./dom.js";
import { drawDrift } from "./drift.js";
import { drawFeedback } from "./feedback.js";
import { clock, zone } from "./format.js";
import { Unauthorised, ask, dropToken, follow, keepToken, takeToken } from "./net.js";
import { drawPipeline } from "./pipeline.js";
import { drawQuality, redraw } from "./quality.js";
import { drawRollout } from "./rollout.js";
import { drawSlices } from "./slices.js";
import { about, alerted, decided, drifted, fires, measured, since, state } from "./state.js";
import { drawThresholds, redrawThresholds, setCost, takeCosts } from "./thresholds.js";
import { drawTiles } from "./tiles.js";

const PACE_MS = 250;
const SPOKEN_MS = 10_000;
const LANDED_MS = 2_000;
const AGAIN_MS = { overview: 10_000, pipeline: 5_000, delay: 10_000, alerts: 15_000, drift: 60_000, rollout: 60_000, quality: 60_000, thresholds: 60_000, slices: 60_000 };
const PANELS = {
  quality: drawQuality, thresholds: drawThresholds, slices: () => drawSlices(chooseSlice), drift: drawDrift, delay: drawFeedback,
  rollout: () => drawRollout(openDecision), alerts: drawAlerts, pipeline: drawPipeline,
};

const PER_MODEL = ["quality", "thresholds", "slices", "drift", "delay", "rollout", "alerts"];
const ALSO = {
  alerts: ["drift", "rollout"], drift: ["quality"], rollout: ["quality", "drift", "thresholds"],
  overview: ["thresholds", "slices", "drift", "rollout", "delay"],
};

let unfollow = () => {};
let timers = [];
let typed = 0; // the timer of a cost that is being typed
let generation = 0; // answers to questions of an earlier choice are dropped

// --- drawing

const dirty = new Set();
let planned = false;

function touch(...names) {
  names.forEach((name) => dirty.add(name));
  if (planned) return;
  planned = true;
  setTimeout(() => requestAnimationFrame(() => {
    planned = false;
    const names = [...dirty];
    dirty.clear();
    names.forEach((name) => PANELS[name]?.());
    drawTiles();
  }), PACE_MS);
}

let spokenAt = 0;
let speech = null;
let speaking = 0;

/** Tell people who listen instead of looking; the latest counts, at most every ten seconds. */
function announce(text) {
  speech = text;
  clearTimeout(speaking);
  speaking = setTimeout(() => {
    spokenAt = Date.now();
    $("announcer").textContent = speech;
  }, Math.max(0, spokenAt + SPOKEN_MS - Date.now()));
}

// --- asking

const QUESTIONS = {
  async overview() {
    const overview = await ask("overview");
    const before = JSON.stringify(state.overview?.models.map((one) => [one.model, one.metrics, one.slices]));
    state.overview = overview;
    const model = state.model;
    if (JSON.stringify(overview.models.map((one) => [one.model, one.metrics, one.slices])) !== before) choices();
    title();
    if (before && state.model !== model) return () => choose({ model: state.model }, ...PER_MODEL);
  },
  async quality() {
    const found = await ask(`models/${encodeURIComponent(state.model)}/quality`, { metric: state.metric, slice: state.slice, window: state.window, from_ms: since() });
    return () => {
      const newer = [...(state.quality?.points.values() ?? [])];
      newer.push(...(state.quality?.ahead.values() ?? []));
      state.quality = { ...found, points: new Map(), ahead: new Map() };
      [...found.points, ...found.ahead].forEach((point) => measured({ ...point, slice: state.slice }));
      newer.filter((point) => point.live).forEach(measured);
    };
  },
  async drift() {
    const found = await ask(`models/${encodeURIComponent(state.model)}/drift`);
    return () => {
      const newer = [...(state.drift?.streams.values() ?? [])].map((one) => one.latest);
      const place = (l) => [l.version, l.deployment, l.slice ?? "", l.stream, l.detector].join("|");
      state.drift = {
        ...found,
        streams: new Map(found.streams.map((one) => [place(one.latest), one])),
        controls: new Map(found.controls.map((one) => [place(one), one])),
      };
      newer.forEach(drifted);
    };
  },
  thresholds: async () => keep("thresholds", await ask(`models/${encodeURIComponent(state.model)}/thresholds`, {
    cost_fp: String(state.costs.cost_fp), cost_fn: String(state.costs.cost_fn), slice: state.slice, from_ms: since(),
  })),
  slices: async () => keep("slices", await ask(`models/${encodeURIComponent(state.model)}/slices`, { metric: state.metric })),
  delay: async () => keep("delay", await ask(`models/${encodeURIComponent(state.model)}/delay`, { from_ms: since() })),
  rollout: async () => keep("rollout", await ask(`models/${encodeURIComponent(state.model)}/rollout`)),
  alerts: async () => keep("alerts", await ask("alerts", { model: state.model })),
  pipeline: async () => keep("pipeline", await ask("pipeline")),
};

const keep = (name, value) => () => (state[name] = value);

/** Ask one question; what the stream brought meanwhile is not undone by an older answer (see `state`). */
async function fetchPanel(name) {
  if (!state.model && PER_MODEL.includes(name) && name !== "alerts") return touch(name);
  const mine = generation;
  try {
    const take = await QUESTIONS[name]();
    if (mine !== generation) return;
    take?.();
    delete state.errors[name];
    if (name === "overview") problem(null);
  } catch (error) {
    if (error instanceof Unauthorised) return enter(error.message);
    if (mine !== generation) return;
    state.errors[name] = error;
    if (name === "overview") problem(error);
  }
  touch(name, ...(ALSO[name] ?? []));
}

const awaited = new Map();

/** Ask again in a moment (by then the event has landed), however many events ask for it. */
function soon(name) {
  if (awaited.has(name)) return;
  awaited.set(name, setTimeout(() => {
    awaited.delete(name);
    fetchPanel(name);
  }, LANDED_MS));
}

async function everything() {
  await fetchPanel("overview");
  await Promise.all(Object.keys(PANELS).map(fetchPanel));
}

function problem(error) {
  show($("problem"), error ? [h("b", {}, error.message), " ", error.fix ?? ""] : []);
}

// --- the stream

const HEARD = {
  metrics: (event) => measured({ ...event, live: true }) && touch("quality"),
  drift(event) {
    if (!drifted(event)) return;
    touch("drift", "quality");
    if (event.alarmed) announce(`Drift alarm on ${event.stream} of ${event.version}`);
  },
  alerts(event) {
    if (!alerted(event)) return;
    touch("alerts", "drift", "rollout");
    announce(`${fires(event) ? "Alert" : "Resolved"}: ${event.summary}`);
    soon("alerts"); // by then its deliveries are known
  },
  reset: () => everything(),
};

function heard(topic, event) {
  if (!state.model && event.model) return soon("overview"); // the first sign of life
  if (HEARD[topic]) HEARD[topic](event);
  else if (decided(topic, event)) {
    touch("rollout", "quality", "drift");
    if (topic === "promote") announce(`Promotion: ${event.stage || "set"}. ${event.reason ?? ""}`);
    if (topic === "promote" || topic === "candidates") soon("overview");
  }
}

function line(kind, detail) {
  const before = state.line.state;
  state.line = { state: kind, detail };
  const [mark, word, colour] = { open: ["●", "live", "good"], lost: ["✕", "not connected", "bad"], refused: ["✕", "refused", "bad"], paused: ["❚❚", "paused", "warn"] }[kind] ?? ["○", "connecting", "quiet"];
  $("connection").className = `state ${colour}`;
  $("connection").textContent = `${mark} ${word}${kind === "paused" ? ` at ${clock(Date.now())}` : ""}`;
  $("connection").title = detail ?? "";
  if (before !== kind && ["lost", "open"].includes(kind) && before !== "connecting") announce(kind === "open" ? "Live again" : "The connection is lost; trying again");
  if (kind === "refused") enter("The token is not the one of this server any more.");
}

function live() {
  unfollow();
  timers.forEach(clearInterval);
  unfollow = follow(state.model, heard, line);
  timers = Object.entries(AGAIN_MS).map(([name, every]) => setInterval(() => document.hidden || fetchPanel(name), every));
}

function silent() {
  unfollow();
  unfollow = () => {};
  timers.forEach(clearInterval);
  timers = [];
}

function pause() {
  state.paused = !state.paused;
  $("pause").setAttribute("aria-pressed", String(state.paused));
  $("pause").textContent = state.paused ? "Resume" : "Pause";
  if (state.paused) {
    silent();
    line("paused", "nothing is fetched and nothing moves until you resume");
  } else {
    line("connecting");
    live();
    everything();
  }
}

// --- choices

function options(select, values, chosen) {
  show(select, values.map(([value, text]) => h("option", { value }, text)));
  select.value = chosen;
  select.disabled = values.length < 2;
}

function choices() {
  const { models } = state.overview;
  if (!models.some((one) => one.model === state.model)) state.model = models[0]?.model ?? "";
  const known = about();
  const metrics = known?.metrics.length ? known.metrics : [state.metric];
  if (!metrics.includes(state.metric)) state.metric = metrics.includes("accuracy") ? "accuracy" : metrics[0];
  if (state.slice && !known?.slices.includes(state.slice)) state.slice = "";
  options($("model"), models.length ? models.map((one) => [one.model, one.model]) : [["", "none yet"]], state.model);
  options($("slice"), [["", "the whole"], ...(known?.slices ?? []).map((name) => [name, name])], state.slice);
  options($("metric"), metrics.map((name) => [name, name.replaceAll("_", " ")]), state.metric);
  $("choices").hidden = false;
}

function title() {
  const { namespace, clock: kind } = state.overview;
  $("namespace").textContent = namespace;
  $("clock").hidden = kind !== "virtual";
  $("clock").textContent = "virtual clock";
  $("clock").title = "Times are of the replay, not of today.";
  document.title = `${state.model || namespace} · Weir`;
}

async function choose(changes, ...panels) {
  Object.assign(state, changes);
  generation += 1;
  panels.forEach((name) => (state[name] = null));
  touch(...panels);
  if ("model" in changes) {
    choices();
    if (!state.paused) live();
  }
  title();
  await Promise.all(panels.map(fetchPanel));
}

/** Show one slice: the panels that can, from the list of slices. */
function chooseSlice(slice) {
  state.slice = slice;
  choices();
  choose({}, "quality", "thresholds");
  $("slice").focus();
}

function theme() {
  const chosen = $("theme").value;
  localStorage.setItem("weir.theme", chosen);
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
  recolour();
}

function recolour() {
  redraw();
  redrawThresholds();
}

function showZone() {
  $("zone").textContent = zone.local ? "Local" : "UTC";
  $("zone").setAttribute("aria-label", `Times are in ${zone.name}; press for ${zone.local ? "UTC" : "this browser's zone"}`);
}

// --- a person decides

const VERBS = {
  approve: ["Approve", "The rollout goes on to its next stage, evidence or not."],
  reject: ["Reject", "The rollout ends and the champion stays."],
  abort: ["Abort", "The champion serves alone again, at once."],
};
let pending = null;

function openDecision(decision, id) {
  pending = { decision, rollout_id: id, model: state.model };
  const [verb, effect] = VERBS[decision];
  $("decision-title").textContent = `${verb} the rollout of ${state.model}?`;
  $("decision-text").textContent = `${effect} (${id})`;
  $("decision-send").textContent = verb;
  $("decision-by").value = sessionStorage.getItem("weir.by") ?? "";
  $("decision-note").value = "";
  $("decision-problem").textContent = "";
  $("decision").showModal();
}

async function sendDecision(event) {
  event.preventDefault();
  const by = $("decision-by").value.trim();
  sessionStorage.setItem("weir.by", by);
  $("decision-send").disabled = true;
  try {
    await ask("approvals", {}, { ...pending, by, note: $("decision-note").value.trim() });
    $("decision").close();
    announce(`${VERBS[pending.decision][0]}: sent. What decide makes of it shows here.`);
  } catch (error) {
    if (error instanceof Unauthorised) {
      $("decision").close();
      enter(error.message);
    } else $("decision-problem").textContent = `${error.message}. ${error.fix ?? ""}`;
  } finally {
    $("decision-send").disabled = false;
  }
}

// --- coming in

function enter(why) {
  silent();
  dropToken();
  generation += 1;
  ["house", "sections", "choices"].forEach((name) => ($(name).hidden = true));
  $("pause").disabled = true;
  $("connection").textContent = "";
  $("entry").hidden = false;
  if (why) show($("problem"), why);
  $("token").value = "";
  $("token").focus();
}

async function open() {
  $("entry").hidden = true;
  problem(null);
  ["house", "sections"].forEach((name) => ($(name).hidden = false));
  $("pause").disabled = false;
  line("connecting");
  await fetchPanel("overview");
  if ($("entry").hidden) {
    live();
    await everything();
  }
}

/** Mark in the navigation which section is being read: the topmost of those in view. */
function spy() {
  const sections = [...document.querySelectorAll("#house section.card[id]")];
  const inView = new Set();
  const seen = new IntersectionObserver((entries) => {
    entries.forEach((entry) => (entry.isIntersecting ? inView.add(entry.target) : inView.delete(entry.target)));
    const top = sections.find((section) => inView.has(section));
    for (const link of document.querySelectorAll("nav a")) {
      if (top && link.hash === `#${top.id}`) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }, { rootMargin: "-60px 0px -40% 0px" });
  sections.forEach((section) => seen.observe(section));
}

$("model").onchange = (event) => choose({ model: event.target.value }, ...PER_MODEL);
$("slice").onchange = (event) => choose({ slice: event.target.value }, "quality", "thresholds");
$("metric").onchange = (event) => choose({ metric: event.target.value }, "quality", "slices");
$("window").onchange = (event) => choose({ window: event.target.value }, "quality");
$("range").onchange = (event) => choose({ range: Number(event.target.value) }, "quality", "thresholds", "delay");
$("judged").onchange = (event) => {
  state.judged = event.target.value;
  touch("thresholds");
};
for (const [id, name] of [["cost-fp", "cost_fp"], ["cost-fn", "cost_fn"]]) {
  $(id).oninput = (event) => {
    if (!setCost(name, event.target)) return;
    clearTimeout(typed);
    typed = setTimeout(() => fetchPanel("thresholds"), PACE_MS);
  };
}
$("pause").onclick = pause;
$("theme").onchange = theme;
$("zone").onclick = () => {
  zone.toggle();
  showZone();
  touch(...Object.keys(PANELS));
};
$("decision-form").onsubmit = sendDecision;
$("decision-cancel").onclick = () => $("decision").close();
$("entry-form").onsubmit = (event) => {
  event.preventDefault();
  keepToken($("token").value.trim());
  open();
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
addEventListener("hashchange", () => location.hash.startsWith("#token=") && takeToken() && open());

$("theme").value = localStorage.getItem("weir.theme") ?? "";
takeCosts();
theme();
showZone();
spy();
if (takeToken()) open();
else enter("");
