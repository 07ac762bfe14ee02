// Consumer groups, and how far they are behind.

import { h } from "../lib/dom.js";
import { bytes, count, plural, seconds } from "../lib/format.js";
import { empty, head, loading, pill } from "../parts/card.js";
import { table } from "../parts/table.js";
import { hrefOf } from "./topics.js";

const STATES = { stable: "good", reconciling: "warn", empty: "quiet" };

const COLUMNS = [
  { title: "Partition", cell: (one) => h("a.name", { href: hrefOf(one.topic) }, `${one.topic}-${one.partition}`) },
  { title: "Owner", cell: (one) => (one.owner === null ? h("span.muted", {}, "nobody") : h("code.break", {}, one.owner)) },
  { title: "Committed", right: true, cell: (one) => count(one.committed) },
  { title: "End", right: true, cell: (one) => count(one.end_offset) },
  { title: "Lag, records", right: true, cell: (one) => count(one.lag_records) },
  { title: "Lag, bytes", right: true, cell: (one) => bytes(one.lag_bytes) },
  { title: "Lag, time", right: true, cell: (one) => seconds(one.lag_seconds) },
];

function add(group, field) {
  const known = group.partitions.map((one) => one[field]).filter((value) => value !== null);
  return known.length > 0 ? known.reduce((sum, value) => sum + value, 0) : null;
}

function card(group) {
  const oldest = Math.max(0, ...group.partitions.map((one) => one.lag_seconds ?? 0));
  const behind = `${count(add(group, "lag_records"))} records, ${bytes(add(group, "lag_bytes"))}, ${seconds(oldest)} behind`;
  return h(
    "section.card.flush",
    { "data-key": group.name },
    h("div.head", {}, h("div", {}, h("h2.break", {}, group.name), h("p.muted", {}, `${plural(group.members.length, "member")} · ${behind}`)), pill(STATES[group.state] ?? "quiet", group.state)),
    group.partitions.length > 0 ? table(`Partitions of group ${group.name}`, COLUMNS, group.partitions, { key: (one) => `${one.topic}-${one.partition}` }) : empty("It reads nothing and has committed nothing."),
  );
}

export function groups(state) {
  if (!state.groups || !state.cluster) return [head("Groups"), loading()];
  const { coordinator, groups: all, consumers } = state.groups;
  const found = [head("Groups")];
  if (!state.groups.known) {
    found.push(h("p.notice", { "data-tone": "warn" }, coordinator === 0 ? "Nobody keeps groups at the moment." : `Groups are kept by node ${coordinator}, which does not answer.`));
  } else if (all.length === 0) {
    found.push(h("section.card", {}, empty("There is no group. One begins with its first consumer: lnc consume --group NAME.")));
  }
  found.push(...all.map(card));
  if (consumers.length > 0) {
    const rows = consumers.flatMap(({ consumer_id: id, partitions }) => partitions.map((one) => ({ id, ...one })));
    const columns = [
      { title: "Consumer", cell: (one) => h("span.name", {}, one.id) },
      { title: "Topic id", right: true, cell: (one) => one.topic_id },
      { title: "Partition", right: true, cell: (one) => one.partition },
      { title: "Committed", right: true, cell: (one) => count(one.committed) },
    ];
    found.push(h("section.card.flush", {}, h("h2", {}, "Consumers without a group"), table("Consumers without a group", columns, rows, { key: (one) => `${one.id}-${one.topic_id}-${one.partition}` })));
  }
  return found;
}
