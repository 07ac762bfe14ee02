// What the console knows, and how it learns it: every answer is asked for anew, and views are told when all have come.

import { ApiError, getJson, getText, setToken, token } from "../lib/api.js";
import { parse } from "../lib/openmetrics.js";
import { poll } from "../lib/poller.js";
import { addScrape, emptyFigures } from "./figures.js";

const INTERVAL_MS = 2000;
/** Events that are kept here. */
const KEPT_EVENTS = 1000;

export const state = {
  cluster: null,
  topics: null,
  groups: null,
  actors: null,
  events: [],
  figures: emptyFigures(),
  who: null,
  /** The node wants a token, and none was given or it is not known. */
  needsToken: false,
  /** What the last refusal said, as long as it stands. */
  error: null,
  unreachable: false,
  heardAtMs: null,
};

const listeners = new Set();
let polling = null;

export function onChange(listener) {
  listeners.add(listener);
}

function tell() {
  for (const listener of listeners) listener(state);
}

async function ask(path, take, read = getJson) {
  try {
    take(await read(path));
    return null;
  } catch (error) {
    return error instanceof ApiError ? error : new ApiError(0, "internal", String(error));
  }
}

function takeEvents({ events }) {
  const last = state.events.length > 0 ? state.events[state.events.length - 1].number : 0;
  const fresh = events.filter(({ number }) => number > last);
  state.events = state.events.concat(fresh).slice(-KEPT_EVENTS);
}

/** A node that was started anew counts events from one again. */
function forgetEventsOfThePast({ events }) {
  const last = state.events[state.events.length - 1];
  if (last && !events.some(({ number, time_ms }) => number === last.number && time_ms === last.time_ms)) state.events = [];
}

async function refresh() {
  const last = state.events[state.events.length - 1];
  const after = Math.max(0, (last?.number ?? 0) - 1);
  const open = [
    ask("/metrics", (text) => addScrape(state.figures, parse(text), performance.now()), getText),
  ];
  // Without a token every other question would be refused, and be a line of the audit log: signing in asks again.
  const guarded = state.needsToken ? [] : [
    ask("/v1/whoami", (who) => (state.who = who)),
    ask("/v1/cluster", (cluster) => (state.cluster = cluster)),
    ask("/v1/topics", ({ topics }) => (state.topics = topics)),
    ask("/v1/groups", (groups) => (state.groups = groups)),
    ask("/v1/actors", (actors) => (state.actors = actors)),
    ask(`/v1/events?after=${after}`, (answer) => {
      forgetEventsOfThePast(answer);
      takeEvents(answer);
    }),
  ];
  const errors = await Promise.all([...open, ...guarded]);
  const failed = errors.filter((error) => error !== null);
  state.unreachable = failed.length === errors.length || failed.some(({ status }) => status === 0);
  state.needsToken ||= failed.some(({ status }) => status === 401);
  state.error = failed.find(({ status }) => status !== 0 && status !== 401) ?? null;
  if (!state.unreachable) state.heardAtMs = Date.now();
  tell();
}

export function start() {
  polling = poll(refresh, INTERVAL_MS);
}

/** Asks for everything now. */
export function refreshNow() {
  polling?.now();
}

/** Takes a token if the node knows it; else the error says why not. */
export async function signIn(value) {
  setToken(value);
  try {
    state.who = await getJson("/v1/whoami");
  } catch (error) {
    setToken(null);
    throw error;
  }
  state.needsToken = false;
  tell();
  refreshNow();
}

export function signOut() {
  setToken(null);
  Object.assign(state, { cluster: null, topics: null, groups: null, actors: null, events: [], who: null, needsToken: true, error: null });
  tell();
}

export function isSignedIn() {
  return token() !== null;
}

/** Whether actions are offered: to anybody without authentication, else to who has signed in. */
export function mayChange() {
  return state.who !== null && (!state.who.authentication || isSignedIn());
}

export function mayAdminister() {
  return state.who?.may_administer === true;
}
