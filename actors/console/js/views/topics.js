// All topics.

import { h } from "../lib/dom.js";
import { bytes, count, seconds, time } from "../lib/format.js";
import { empty, head, loading, pill } from "../parts/card.js";
import { table } from "../parts/table.js";
import { mayChange } from "../state/store.js";

export function standing(topic) {
  const all = topic.partitions;
  if (all.some(({ leader }) => leader === null)) return pill("bad", "no leader");
  const thin = all.filter(({ replicas, in_quorum }) => in_quorum.length < replicas.length).length;
  return thin > 0 ? pill("warn", `${thin} under-replicated`) : pill("good", "in sync");
}

function retention(topic) {
  const parts = [];
  if (topic.retention_age_seconds > 0) parts.push(seconds(topic.retention_age_seconds));
  if (topic.retention_bytes > 0) parts.push(`${bytes(topic.retention_bytes)} a partition`);
  return parts.length > 0 ? parts.join(", ") : "kept for ever";
}

export function hrefOf(name) {
  return `#/topics/${encodeURIComponent(name)}`;
}

const COLUMNS = [
  { title: "Topic", cell: (topic) => h("a.name", { href: hrefOf(topic.name) }, topic.name) },
  { title: "Standing", cell: standing },
  { title: "Partitions", right: true, cell: (topic) => count(topic.partitions.length) },
  { title: "Copies", right: true, cell: (topic) => count(topic.replication_factor) },
  { title: "Mode", cell: (topic) => topic.mode },
  { title: "Retention", cell: retention },
  { title: "Created", cell: (topic) => time(topic.created_at * 1000) },
];

export function topics(state) {
  const create = mayChange() ? h("button.primary", { type: "button", "data-action": "create-topic" }, "Create topic") : null;
  if (!state.topics) return [head("Topics"), loading()];
  const body = state.topics.length > 0 ? table("Topics", COLUMNS, state.topics, { key: (topic) => topic.id }) : empty("There is no topic yet. One is made here, by lnc topic create, or by the first record that is sent to it.");
  return [head("Topics", create), h("section.card.flush", {}, body)];
}
