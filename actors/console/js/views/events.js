// What happened: evictions with the figures that led to them, returns, leaders, restarts.

import { h } from "../lib/dom.js";
import { plural, seconds, time } from "../lib/format.js";
import { empty, head } from "../parts/card.js";

const micros = (value) => (value === null ? null : seconds(value / 1e6));
const node = (id) => (id === null ? "nobody" : `node ${id}`);

const WORDS = {
  "demote": { tone: "warn", say: (e) => `Follower ${e.node} is slow: it is fed from the log, and still counts` },
  "promote": { tone: "good", say: (e) => `Follower ${e.node} is fast again` },
  "evict": { tone: "bad", say: (e) => `Follower ${e.node} was evicted: ${e.cause === "silent" ? "it owed an ack for too long" : "it was slower than the others"}` },
  "swap-in": { tone: "bad", say: (e) => `A spare took the place of follower ${e.node}` },
  "rejoin": { tone: "good", say: (e) => `Follower ${e.node} came back` },
  "admit": { tone: "good", say: (e) => `Copies of node ${e.node} hold everything again` },
  "slow-leader": { tone: "warn", say: () => "This node is slower than its followers" },
  "quorum-left": { tone: "warn", say: (e) => `Node ${e.node} is not waited for any more` },
  "quorum-joined": { tone: "good", say: (e) => `Node ${e.node} is waited for` },
  "leader-change": { tone: "quiet", say: (e) => `Node ${e.node} leads${e.before === null ? "" : ` instead of node ${e.before}`}` },
  "metadata-leader": { tone: "quiet", say: (e) => `Node ${e.node} leads the metadata${e.before === null ? "" : `, before it ${node(e.before)}`}` },
  "node-down": { tone: "bad", say: (e) => `Node ${e.node} is not heard of` },
  "node-up": { tone: "good", say: (e) => `Node ${e.node} is heard of again` },
  "topic-created": { tone: "quiet", say: (e) => `Topic ${e.topic} was created` },
  "topic-deleted": { tone: "quiet", say: (e) => `Topic ${e.topic} was deleted` },
  "actor-restart": { tone: "warn", say: (e) => `Actor ${e.actor} failed and restarts: ${e.reason}` },
};

export const FILTERS = {
  all: { title: "All", kinds: null },
  evictions: { title: "Evictions", kinds: ["demote", "promote", "evict", "swap-in", "rejoin", "admit", "quorum-left", "quorum-joined", "slow-leader"] },
  leaders: { title: "Leaders", kinds: ["leader-change", "metadata-leader", "node-down", "node-up"] },
  actors: { title: "Actors", kinds: ["actor-restart"] },
};

function where(event) {
  if (event.partition_count === 0) return null;
  if (event.partitions.length === 0) return plural(event.partition_count, "partition");
  const rest = event.partition_count - event.partitions.length;
  return event.partitions.join(", ") + (rest > 0 ? ` and ${rest} more` : "");
}

function figures(event) {
  const told = event.figures;
  if (!told) return [];
  return [
    ["ack p99", micros(told.ack_p99_us)],
    ["others' median", micros(told.others_median_us)],
    ["allowed", micros(told.threshold_us)],
    ["slow windows", told.slow_windows],
    ["owed for", told.outstanding_ms === null ? null : seconds(told.outstanding_ms / 1000)],
  ].filter(([, value]) => value !== null);
}

export function eventItem(event, { withFigures = true } = {}) {
  const { tone, say } = WORDS[event.kind] ?? { tone: "quiet", say: () => event.kind };
  const facts = withFigures ? [[null, where(event)], ...figures(event)].filter(([, value]) => value !== null) : [];
  return h(
    "li",
    { "data-key": event.number },
    h("span.dot", { "data-tone": tone }),
    h("div.what", {}, h("span", {}, say(event)), facts.length > 0 ? h("div.figures", {}, facts.map(([name, value]) => h("span", {}, name ? `${name} ${value}` : value))) : null),
    time(event.time_ms),
  );
}

export function events(state, filter) {
  const chosen = FILTERS[filter] ?? FILTERS.all;
  const found = state.events.filter(({ kind }) => chosen.kinds === null || chosen.kinds.includes(kind)).reverse();
  const links = Object.entries(FILTERS).map(([name, { title }]) => h("a", { href: name === "all" ? "#/events" : `#/events/${name}`, "aria-current": chosen === FILTERS[name] ? "true" : null }, title));
  return [
    h("div.head", {}, h("h1", {}, "Events"), h("nav.filters", { "aria-label": "Which events" }, links)),
    h("section.card.flush", {}, found.length > 0 ? h("ul.list", {}, found.map((event) => eventItem(event))) : empty("Nothing of this kind has happened since this node started.")),
    h("p.fine", {}, "What this node saw and decided since it started. Who leads a partition decides about its followers: figures are told there."),
  ];
}
