// The supervision tree of the node.

import { h } from "../lib/dom.js";
import { count, plural } from "../lib/format.js";
import { head, loading, statePill } from "../parts/card.js";
import { table } from "../parts/table.js";
import { flatActors } from "../state/cluster.js";

function mailbox(actor) {
  const said = `${count(actor.mailbox_depth)} of ${count(actor.mailbox_capacity)}`;
  return h("span", {}, h("span.number", {}, `${said} `), h("meter", { min: 0, max: actor.mailbox_capacity, high: actor.mailbox_capacity * 0.7, optimum: 0, value: Math.min(actor.mailbox_depth, actor.mailbox_capacity), "aria-label": "Filled" }));
}

const COLUMNS = [
  { title: "Actor", cell: (actor) => [h("span.indent", { "aria-hidden": "true" }, actor.depth > 0 ? `${"   ".repeat(actor.depth - 1)}└─ ` : ""), h("span.name", {}, actor.name)] },
  { title: "Kind", cell: (actor) => actor.kind },
  { title: "State", cell: (actor) => statePill(actor.state) },
  { title: "Restarts", right: true, cell: (actor) => count(actor.restarts) },
  { title: "Mailbox", right: true, cell: mailbox },
];

export function actors(state) {
  if (!state.actors) return [head("Actors"), loading()];
  const rows = flatActors(state.actors);
  const restarts = rows.reduce((sum, actor) => sum + actor.restarts, 0);
  const running = rows.filter((actor) => actor.state === "running").length;
  return [
    head("Actors"),
    h("p.muted", {}, `${running} of ${plural(rows.length, "actor")} running, ${plural(restarts, "restart")} since this node started.`),
    h("section.card.flush", {}, table("Actors of this node", COLUMNS, rows, { key: (actor) => actor.name })),
  ];
}
