// The nodes, as the one that answers sees them.

import { h } from "../lib/dom.js";
import { bytes, count, seconds } from "../lib/format.js";
import { head, loading, statePill } from "../parts/card.js";
import { table } from "../parts/table.js";
import { nodesOf } from "../state/cluster.js";
import { mayAdminister } from "../state/store.js";

const COLUMNS = [
  { title: "Node", cell: (node) => h("span.name", {}, `Node ${node.id}`, node.isSelf ? h("span.muted", {}, " (this one)") : null) },
  { title: "State", cell: (node) => h("span.chips", {}, statePill(node.state), node.metadata_leader ? h("span.tag", {}, "metadata leader") : null) },
  { title: "Address", cell: (node) => h("code.break", {}, node.address) },
  { title: "Leads", right: true, cell: (node) => count(node.leads) },
  { title: "Copies", right: true, cell: (node) => (node.evicted > 0 ? `${count(node.held)} (${count(node.evicted)} not waited for)` : count(node.held)) },
  { title: "Behind", right: true, cell: (node) => (node.isSelf ? null : bytes(node.lag)) },
  { title: "Ack p99", right: true, cell: (node) => (node.isSelf ? null : seconds(node.p99)) },
  { title: "Allowed", right: true, cell: (node) => (node.isSelf ? null : seconds(node.threshold)) },
];

export function nodes(state) {
  if (!state.cluster) return [head("Nodes"), loading()];
  const rows = nodesOf(state.cluster, state.figures.last?.samples);
  const own = state.cluster.node;
  const drain = mayAdminister() && own !== null ? h("button.danger", { type: "button", "data-action": "drain", "data-node": own }, `Drain node ${own}`) : null;
  return [
    head("Nodes", drain),
    h("section.card.flush", {}, table("Nodes of the cluster", COLUMNS, rows, { key: (node) => node.id, self: (node) => node.isSelf })),
    h("p.fine", {}, "Behind: bytes of what this node leads that the other has not acked. Ack p99 is what it is judged by, allowed what that is held against. Ask another node for what it leads."),
  ];
}
