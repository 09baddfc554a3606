// Numbers, spans and times as people read them. Times are UTC unless the person asked for the browser's zone.

let local = localStorage.getItem("weir.zone") === "local";
const cache = new Map();

function formatter(make, ...key) {
  const name = JSON.stringify(key);
  if (!cache.has(name)) cache.set(name, make());
  return cache.get(name);
}

export const zone = {
  get local() { return local; },
  get name() { return local ? Intl.DateTimeFormat().resolvedOptions().timeZone : "UTC"; },
  toggle() {
    local = !local;
    localStorage.setItem("weir.zone", local ? "local" : "utc");
    cache.clear();
  },
};

const within = () => (local ? {} : { timeZone: "UTC" });

/** 2026-11-20 14:05:09 */
export function time(ms) {
  if (!ms) return "–";
  const parts = formatter(() => new Intl.DateTimeFormat("en-CA", {
    year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
    hourCycle: "h23", ...within(),
  }), "time").format(ms);
  return parts.replace(",", "");
}

/** 14:05:09, for where the day is clear. */
export const clock = (ms) => (ms ? time(ms).slice(11) : "–");

/** Ticks of a time axis: as much as the step needs. */
export function tick(ms, stepMs) {
  const text = time(ms);
  if (stepMs >= 86_400_000) return text.slice(5, 10);
  const midnight = text.slice(11) === "00:00:00";
  return midnight ? `${text.slice(5, 10)} ${text.slice(11, 16)}` : stepMs >= 60_000 ? text.slice(11, 16) : text.slice(11);
}

export function count(value) {
  if (value === null || value === undefined) return "–";
  return formatter(() => new Intl.NumberFormat("en"), "count").format(value);
}

/** 4.1k, 2.3M */
export function short(value) {
  return formatter(() => new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }), "short").format(value);
}

export function share(value) {
  if (value === null || value === undefined) return "–";
  return `${(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`;
}

export function figure(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e5 || size < 10 ** -digits)) return value.toPrecision(2);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : digits);
}

export function interval(point) {
  if (point.low === null || point.low === undefined) return figure(point.value);
  return `${figure(point.value)} [${figure(point.low)}, ${figure(point.high)}]`;
}

const UNITS = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1_000], ["ms", 1]];

/** 2 h, 4.5 min */
export function span(ms) {
  if (ms === null || ms === undefined) return "–";
  const [unit, size] = UNITS.find(([, size]) => Math.abs(ms) >= size) ?? UNITS.at(-1);
  const value = ms / size;
  return `${value >= 10 || Number.isInteger(value) ? Math.round(value) : value.toFixed(1)} ${unit}`;
}

/** Shorten the hashes in a sentence. */
export const tidy = (text) => text.replace(/\b([a-z]+-[0-9a-f]{6})[0-9a-f]{26}\b/g, "$1…");

/** Ids are long hashes; the beginning and the end tell them apart. */
export const brief = (id) => (id.length > 26 ? `${id.slice(0, 16)}…${id.slice(-6)}` : id);
