// How the page asks: bearer token, JSON, and one stream of everything that happens.

import { fetchEventSource } from "./vendor/fetch-event-source/index.js";

const KEY = "weir.token";

export class Unauthorised extends Error {}
export class Failed extends Error {
  constructor(status, what, fix) {
    super(what);
    Object.assign(this, { status, what, fix });
  }
}

/** Take the token out of the address, if it is there, so that it stays out of history and bookmarks. */
export function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(KEY, given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return sessionStorage.getItem(KEY);
}

export const keepToken = (token) => sessionStorage.setItem(KEY, token);
export const dropToken = () => sessionStorage.removeItem(KEY);
const authorised = () => ({ Authorization: `Bearer ${sessionStorage.getItem(KEY)}` });

/** Ask for JSON. Throws `Unauthorised`, or `Failed` with what happened and what to do. */
export async function ask(path, parameters = {}, body) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== 0));
  const options = { headers: authorised() };
  if (body !== undefined) {
    options.method = "POST";
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(`/v1/${path}${query.size ? `?${query}` : ""}`, options);
  } catch {
    throw new Failed(0, "weir api does not answer", "see whether it runs (weir up, weir api); the page tries again by itself");
  }
  if (response.status === 401) throw new Unauthorised((await response.json()).what);
  const answer = await response.json().catch(() => ({ what: `answer ${response.status} is no JSON`, fix: "see the log of weir api" }));
  if (!response.ok) throw new Failed(response.status, answer.what, answer.fix);
  return answer;
}

/**
 * Follow the stream until `stop()`. `heard(topic, event)` gets what happens, `said(state, detail)` how the line is:
 * open, lost, refused. It goes on after the last event heard, also after the tab was hidden.
 */
export function follow(model, heard, said) {
  const abort = new AbortController();
  let silent;
  let tries = 0;
  const alive = () => {
    clearTimeout(silent);
    silent = setTimeout(() => said("lost", "nothing was heard for 30 s"), 30_000);
  };
  fetchEventSource(`/v1/live?${new URLSearchParams({ model })}`, {
    headers: authorised(),
    signal: abort.signal,
    async onopen(response) {
      if (response.status === 401) throw new Unauthorised("the token is not the one of this server any more");
      if (!response.ok) throw new Failed(response.status, `the stream answers ${response.status}`, "");
      tries = 0;
      alive();
    },
    onmessage(message) {
      alive();
      if (!message.event) return; // a ping
      const data = JSON.parse(message.data);
      if (message.event === "tick") said(data.ready ? "open" : "lost", data.problem);
      else heard(message.event, data);
    },
    onclose() {
      throw new Error("the stream ended"); // a clean end is no reason to stop: onerror tries again
    },
    onerror(error) {
      if (error instanceof Unauthorised) {
        said("refused", error.message);
        throw error;
      }
      said("lost", error.message);
      tries += 1;
      return Math.min(500 * 2 ** tries, 10_000);
    },
  }).catch(() => {});
  return () => {
    clearTimeout(silent);
    abort.abort();
  };
}
