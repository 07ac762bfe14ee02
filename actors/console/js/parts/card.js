// Boxes: a figure with its name, a box with a heading, a pill with a tone.

import { h } from "../lib/dom.js";

export function pill(tone, text) {
  return h("span.pill", { "data-tone": tone }, text);
}

const NODE_TONES = { serving: "good", running: "good", draining: "warn", starting: "warn", recovering: "warn", restarting: "bad", down: "bad", stopped: "bad", electing: "warn", opening: "warn" };

/** The state of a node, a partition or an actor. */
export function statePill(state) {
  return pill(NODE_TONES[state] ?? "quiet", state ?? "unknown");
}

export function stat(name, value, { unit = "", note = "", tone = null, chart = null, wide = false } = {}) {
  return h(
    `dl.card.stat${wide ? ".wide" : ""}`,
    { "data-tone": tone },
    h("dt", {}, name),
    h("dd.value", {}, value, unit ? h("small", {}, ` ${unit}`) : null),
    h("dd.note", {}, note),
    chart ? h("dd", {}, chart) : null,
  );
}

export function head(title, ...actions) {
  return h("div.head", {}, h("div", {}, h("h1.break", {}, title)), h("div.actions", {}, actions));
}

export function empty(text) {
  return h("p.empty", {}, text);
}

export function loading() {
  return h("p.loading", { "aria-busy": "true" }, "Loading");
}
