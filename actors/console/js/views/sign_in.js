// Where a token is asked for, and what somebody hears whose token does not do.

import { h } from "../lib/dom.js";
import { field } from "../parts/dialog.js";
import { isSignedIn, signIn } from "../state/store.js";

export function signInForm() {
  const input = h("input", { type: "password", required: true, autocomplete: "current-password", spellcheck: "false" });
  // Who keeps passwords keeps this one under a name.
  const name = h("input", { type: "text", autocomplete: "username", value: "lance", hidden: true });
  const submit = h("button.primary", { type: "submit" }, "Sign in");
  const error = h("p.error", { role: "alert" }, isSignedIn() ? "The token is not known any more." : "");
  const form = h(
    "form.form",
    {},
    h("h1", {}, "Sign in"),
    h("p.muted", {}, "This node wants a token. It is kept for this tab only, and sent to this node only."),
    name,
    field("token", "Token", input),
    error,
    h("div.actions", {}, submit),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    error.textContent = "";
    try {
      await signIn(input.value.trim());
    } catch (failure) {
      error.textContent = failure.status === 401 ? "The node does not know this token." : failure.message;
    } finally {
      submit.disabled = false;
    }
  });
  return h("section.card.sign-in", { "data-own": "sign-in", "data-key": "sign-in" }, form);
}

/** What is said instead of figures that somebody may not see. */
export function refusal(error) {
  const text = error.status === 403 ? `${error.message}. Ask an administrator for describe on the cluster, or sign in as somebody else.` : error.message;
  return h("p.notice", { "data-tone": error.status === 403 ? "bad" : "warn", role: "alert" }, text);
}
