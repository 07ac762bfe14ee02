// A dialog with a form: it closes when its work is done, and says why when it is not.

import { h } from "../lib/dom.js";

/**
 * `fields`: elements; `work(form)` is called with the form and may throw; `done(result)` once it has not.
 * The focus goes back to where it came from when the dialog closes.
 */
export function openDialog({ title, fields, action, tone = "", work, done }) {
  const submit = h(`button.primary${tone}`, { type: "submit" }, action);
  const cancel = h("button", { type: "button" }, "Cancel");
  const error = h("p.error", { role: "alert" });
  const form = h("form.form", {}, h("h2", { id: "dialog-title" }, title), fields, error, h("div.actions", {}, cancel, submit));
  const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
  cancel.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    error.textContent = "";
    try {
      const result = await work(form);
      dialog.close();
      done(result);
    } catch (failure) {
      error.textContent = failure.message;
    } finally {
      submit.disabled = false;
    }
  });
  document.body.append(dialog);
  dialog.showModal();
  return { dialog, form, submit };
}

/** A labelled control with a hint. */
export function field(id, label, control, hint = "") {
  control.id = id;
  if (hint) control.setAttribute("aria-describedby", `${id}-hint`);
  return h("div.field", {}, h("label", { for: id }, label), control, hint ? h("span.hint", { id: `${id}-hint` }, hint) : null);
}
