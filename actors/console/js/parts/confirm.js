// What cannot be taken back is typed out before it is done.

import { h } from "../lib/dom.js";
import { field, openDialog } from "./dialog.js";

/** Asks to type `word`; `work` runs once it stands there. */
export function confirmTyped({ title, text, word, action, work, done }) {
  const input = h("input.mono", { type: "text", autocomplete: "off", autocapitalize: "off", spellcheck: "false", required: true });
  const fields = [h("p.break", {}, text), field("confirm-word", `Type ${word} to confirm`, input)];
  const { submit } = openDialog({ title, fields, action, tone: ".danger", work, done });
  submit.disabled = true;
  input.addEventListener("input", () => {
    submit.disabled = input.value !== word;
  });
}
