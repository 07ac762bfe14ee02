// A sentence that is said and goes.

import { h } from "../lib/dom.js";

const STAYS_MS = 6000;

export function toast(text, tone = "quiet") {
  const element = h("div.toast", { "data-tone": tone }, text);
  document.getElementById("toasts").append(element);
  setTimeout(() => element.remove(), STAYS_MS);
}
