// Tables that become cards on a phone. Roles are told by name, since a table laid out as blocks loses its own.

import { h } from "../lib/dom.js";

/**
 * `columns`: `[{ title, cell(row), right }]`; a cell of null is left out on a phone.
 * `key(row)` tells rows apart; `self(row)` marks one.
 */
export function table(caption, columns, rows, { key, self = () => false }) {
  const cell = (column, row) => {
    const inside = column.cell(row);
    const classes = [column.right ? ".right" : "", inside === null ? ".blank" : ""].join("");
    return h(`td${classes}`, { role: "cell", "data-label": column.title }, inside);
  };
  return h(
    "div.scroll",
    {},
    h(
      "table.stack",
      { role: "table" },
      h("caption.hidden", {}, caption),
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map(({ title, right }) => h(`th${right ? ".right" : ""}`, { role: "columnheader", scope: "col" }, title)))),
      h(
        "tbody",
        { role: "rowgroup" },
        rows.map((row) => h(`tr${self(row) ? ".self" : ""}`, { role: "row", "data-key": key(row) }, columns.map((column) => cell(column, row)))),
      ),
    ),
  );
}
