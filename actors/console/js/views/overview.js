// The cluster at a glance.

import { h } from "../lib/dom.js";
import { bytes, count, plural, seconds, short, NONE } from "../lib/format.js";
import { empty, loading, stat } from "../parts/card.js";
import { sparkline } from "../parts/sparkline.js";
import { offline, problems, underReplicated } from "../state/cluster.js";
import { seriesOf } from "../state/figures.js";
import { eventItem } from "./events.js";

const SHOWN_EVENTS = 8;

function sum(cluster) {
  const up = cluster.nodes.filter(({ state }) => state !== "down").length;
  const [without, thin] = [offline(cluster).length, underReplicated(cluster).length];
  const topics = new Set(cluster.partitions.map(({ topic }) => topic)).size;
  return h(
    "div.grid",
    {},
    stat("Nodes up", `${up} / ${cluster.nodes.length}`, { tone: up < cluster.nodes.length ? "bad" : null, note: cluster.metadata_leader === null ? "no metadata leader" : `metadata: node ${cluster.metadata_leader}, term ${cluster.term}` }),
    stat("Partitions", count(cluster.partitions.length), { note: `in ${plural(topics, "topic")}` }),
    stat("Without a leader", count(without), { tone: without > 0 ? "bad" : null, note: without > 0 ? "cannot be read or written" : "all can be read and written" }),
    stat("Under-replicated", count(thin), { tone: thin > 0 ? "warn" : null, note: thin > 0 ? "a copy is missing or not waited for" : "all copies are waited for" }),
  );
}

function rate(figures, title, key, format, unit) {
  const { values, last } = seriesOf(figures, key);
  const text = last === null ? NONE : format(last);
  return stat(title, text, { unit, note: "this node", chart: sparkline(values, `${title}: ${text} ${unit}`) });
}

function latency(figures, title, key) {
  const [p99, p50] = [seriesOf(figures, `${key}P99`), seriesOf(figures, `${key}P50`)];
  const note = p50.last === null ? "nothing in the last 2 s" : `p50 ${seconds(p50.last)}`;
  return stat(`${title} p99`, seconds(p99.last), { note, chart: sparkline(p99.values, `${title}: p99 ${seconds(p99.last)}, ${note}`, p50.values) });
}

function load(figures) {
  return h(
    "div.grid.thirds",
    {},
    rate(figures, "Produced", "producedBytes", bytes, "/s"),
    rate(figures, "Records in", "producedRecords", short, "/s"),
    rate(figures, "Fetched", "fetchedBytes", bytes, "/s"),
    latency(figures, "Produce", "produce"),
    latency(figures, "Fetch", "fetch"),
    latency(figures, "Disk sync", "sync"),
  );
}

function attention(state) {
  const found = problems(state);
  const items = found.map(({ tone, text, href }) => h("li", { "data-key": text }, h("span.dot", { "data-tone": tone }), h("a.what", { href }, text)));
  return h("section.card.flush", {}, h("h2", {}, "Attention"), items.length > 0 ? h("ul.list", {}, items) : empty("Nothing needs attention."));
}

function recent(state) {
  const items = state.events.slice(-SHOWN_EVENTS).reverse().map((event) => eventItem(event, { withFigures: false }));
  const more = h("a", { href: "#/events" }, "All");
  return h("section.card.flush", {}, h("div.head", {}, h("h2", {}, "Recent events"), more), items.length > 0 ? h("ul.list", {}, items) : empty("Nothing has happened since this node started."));
}

export function overview(state) {
  if (!state.cluster) return [h("h1", {}, "Overview"), loading()];
  return [h("h1", {}, "Overview"), sum(state.cluster), load(state.figures), h("div.columns", {}, attention(state), recent(state))];
}
