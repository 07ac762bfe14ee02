// One topic: its partitions, and its records as they come.

import { h } from "../lib/dom.js";
import { bytes, count, seconds } from "../lib/format.js";
import { empty, head, loading, stat, statePill } from "../parts/card.js";
import { table } from "../parts/table.js";
import { mayChange } from "../state/store.js";
import { standing } from "./topics.js";
import { tailPanel } from "./tail.js";

/** The replicas of a partition: who leads, who is waited for, who is not. */
function copies({ replicas, in_quorum, leader }) {
  const chip = (node) => {
    const [mark, said] = node === leader ? [".leads", "leads"] : in_quorum.includes(node) ? ["", "in quorum"] : [".out", "not waited for"];
    return h(`span.chip${mark}`, { title: `Node ${node}: ${said}` }, node, h("span.hidden", {}, ` ${said}`));
  };
  return h("span.chips", {}, replicas.map(chip));
}

const COLUMNS = [
  { title: "Partition", cell: (one) => h("span.name", {}, h("span.phone", {}, "Partition "), one.partition) },
  { title: "Leader", cell: (one) => (one.leader === null ? statePill("no leader") : `Node ${one.leader}`) },
  { title: "Copies", cell: copies },
  { title: "Epoch", right: true, cell: (one) => count(one.epoch) },
  { title: "State here", cell: (one) => (one.state === null ? h("span.muted", {}, "no copy") : statePill(one.state)) },
  { title: "Log start", right: true, cell: (one) => count(one.log_start) },
  { title: "High watermark", right: true, cell: (one) => count(one.high_watermark) },
  { title: "Log end", right: true, cell: (one) => count(one.log_end) },
];

function legend() {
  return h("p.legend", {}, h("span", {}, h("span.chip.leads", {}, "n"), " leads"), h("span", {}, h("span.chip", {}, "n"), " in the quorum"), h("span", {}, h("span.chip.out", {}, "n"), " not waited for"), h("span", {}, "Positions are bytes of this node's copy."));
}

function kept({ retention_age_seconds: age, retention_bytes: size }) {
  if (age === 0 && size === 0) return stat("Retention", "Unlimited", { note: "nothing is removed" });
  if (age === 0) return stat("Retention", bytes(size), { note: "a partition, then the oldest go" });
  return stat("Retention", seconds(age), { note: size === 0 ? "then records go" : `or ${bytes(size)} a partition` });
}

export function topic(state, name) {
  if (!state.topics || !state.cluster) return [head(name), loading()];
  const known = state.topics.find((one) => one.name === name);
  if (!known) return [head(name), h("section.card", {}, empty("There is no such topic."), h("p", {}, h("a", { href: "#/topics" }, "All topics")))];
  const partitions = state.cluster.partitions.filter((one) => one.topic === name);
  const stored = partitions.reduce((sum, one) => sum + (one.log_end === null ? 0 : one.log_end - one.log_start), 0);
  const remove = mayChange() ? h("button.danger", { type: "button", "data-action": "delete-topic", "data-topic": name }, "Delete topic") : null;
  return [
    h("p.back", {}, h("a", { href: "#/topics" }, "← All topics")),
    head(name, remove),
    h(
      "div.grid",
      {},
      stat("Partitions", count(known.partitions.length), { note: standing(known) }),
      stat("Copies", count(known.replication_factor), { note: known.mode === "L2" ? "L2: acked by a quorum" : "L1: acked by the leader" }),
      stat("Stored here", bytes(stored), { note: "copies of this node" }),
      kept(known),
    ),
    h("section.card.flush", {}, h("div.head", {}, h("h2", {}, "Partitions"), legend()), table(`Partitions of ${name}`, COLUMNS, partitions, { key: (one) => one.partition })),
    tailPanel(name, known.partitions.length),
  ];
}
