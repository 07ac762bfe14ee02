// Making and deleting topics, and draining the node: what an operator does here.

import { change, path } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { confirmTyped } from "../parts/confirm.js";
import { field, openDialog } from "../parts/dialog.js";
import { toast } from "../parts/toast.js";
import { refreshNow } from "../state/store.js";
import { hrefOf } from "./topics.js";

const DAY_SECONDS = 86400;
const GIB = 1024 ** 3;

function number(max) {
  return h("input", { type: "number", min: 1, max, step: 1, inputmode: "numeric", placeholder: "Default" });
}

/** A number of a form; what is empty is left to the server. */
function read(form, id, factor = 1) {
  const text = form.querySelector(`#${id}`).value.trim();
  return text === "" ? undefined : Math.round(Number(text) * factor);
}

export function createTopic() {
  const name = h("input", { type: "text", required: true, maxlength: 255, pattern: "[A-Za-z0-9._\\-]+", autocomplete: "off", autocapitalize: "off", spellcheck: "false" });
  const mode = h("select", {}, h("option", { value: "" }, "Default"), h("option", { value: "L1" }, "L1: leader's disk"), h("option", { value: "L2" }, "L2: a quorum"));
  const amount = () => h("input", { type: "number", min: 0, step: "any", inputmode: "decimal", placeholder: "Default" });
  const fields = [
    field("topic-name", "Name", name, "Letters, digits, dot, dash and underscore."),
    h("div.pair", {}, field("topic-partitions", "Partitions", number(65535)), field("topic-copies", "Copies", number(255))),
    field("topic-mode", "Acked by", mode),
    h("div.pair", {}, field("topic-age", "Kept for, days", amount(), "0 keeps for ever."), field("topic-size", "Kept, GiB a partition", amount(), "0 keeps everything.")),
  ];
  openDialog({
    title: "Create a topic",
    fields,
    action: "Create",
    work: (form) =>
      change("POST", "/v1/topics", {
        name: name.value,
        partitions: read(form, "topic-partitions"),
        replication_factor: read(form, "topic-copies"),
        mode: mode.value || undefined,
        retention_age_seconds: read(form, "topic-age", DAY_SECONDS),
        retention_bytes: read(form, "topic-size", GIB),
      }),
    done: (topic) => {
      toast(`Topic ${topic.name} is there.`);
      refreshNow();
      location.hash = hrefOf(topic.name);
    },
  });
}

export function deleteTopic({ topic }) {
  confirmTyped({
    title: "Delete this topic?",
    text: `Every record of ${topic}, on every node, and the offsets that groups have in it. This cannot be taken back.`,
    word: topic,
    action: "Delete for good",
    work: () => change("DELETE", path("v1", "topics", topic)),
    done: () => {
      toast(`Topic ${topic} is gone.`);
      refreshNow();
      location.hash = "#/topics";
    },
  });
}

export function drainNode({ node }) {
  confirmTyped({
    title: `Drain node ${node}?`,
    text: `Other nodes take over what node ${node} leads, then its process ends. It serves again once somebody starts it, and so does this console.`,
    word: `node-${node}`,
    action: "Drain and stop",
    work: () => change("POST", "/v1/drain"),
    done: () => {
      toast(`Node ${node} is draining.`);
      refreshNow();
    },
  });
}
