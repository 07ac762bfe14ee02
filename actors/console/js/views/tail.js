// The records of a topic as they come. The panel looks after itself: redrawing the view around it leaves it alone.

import { getJson, path } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { bytes, clock, plural } from "../lib/format.js";
import { poll } from "../lib/poller.js";
import { field } from "../parts/dialog.js";

const INTERVAL_MS = 1000;
const KEPT_ROWS = 500;
const FIRST_ROWS = 50;
/** Partitions that are followed together, at most. */
const MAX_TOGETHER = 16;

let open = null;

/** Ends the tail that runs, if its topic is not shown any more. */
export function leaveTail(topic) {
  if (open !== null && open.topic !== topic) {
    open.stop();
    open = null;
  }
}

export function tailPanel(topic, partitions) {
  leaveTail(topic);
  if (open === null) open = build(topic, partitions);
  return h("section.card.flush", { "data-own": "tail", "data-key": `tail-${topic}`, "aria-label": `Records of ${topic}` }, open.take());
}

/** Bytes as text: what is none is shown as base64 and says so. */
function shown(value, whole) {
  if (value === null) return h("span.aside", {}, "null");
  const parts = [value.text === null ? h("span.aside", {}, "base64 ") : null, value.text ?? value.base64];
  if (value.truncated) parts.push(h("span.aside", {}, ` … ${whole} of ${bytes(value.bytes)}`));
  if (value.bytes === 0) parts.push(h("span.aside", {}, "empty"));
  return parts;
}

function row(partition, record) {
  const key = record.key === null ? null : [h("span.key", {}, shown(record.key, "the beginning")), " "];
  const headers = record.headers.map(({ name, value }) => h("div.aside", {}, `${name}: `, shown(value, "the beginning")));
  const timed = record.timestamp_ms !== null;
  return h(
    `div.row${timed ? ".timed" : ""}`,
    {},
    h("span.at", { title: `Partition ${partition}, offset ${record.offset}` }, `${partition}/${record.offset}`),
    timed ? h("span.when", { title: new Date(record.timestamp_ms).toLocaleString() }, clock(record.timestamp_ms)) : null,
    h("div.body", { tabindex: "-1" }, key, shown(record.value, "the beginning"), headers),
  );
}

function build(topic, partitions) {
  const together = partitions <= MAX_TOGETHER;
  const numbers = [...Array(partitions).keys()];
  const which = h("select", {}, together && partitions > 1 ? h("option", { value: "all" }, "All") : null, numbers.map((number) => h("option", { value: number }, number)));
  const from = h("select", {}, h("option", { value: "last" }, `Last ${FIRST_ROWS}`), h("option", { value: "latest" }, "New ones"), h("option", { value: "earliest" }, "The beginning"));
  const pause = h("button", { type: "button", "aria-pressed": "false" }, "Pause");
  const clear = h("button", { type: "button" }, "Clear");
  const said = h("span.state", { role: "status" }, "");
  const rows = h("div.tail", { role: "log", "aria-live": "off", "aria-label": `Records of ${topic}`, tabindex: "0" }, h("p.empty", {}, "Waiting for records"));
  const content = [
    h("div.head", {}, h("h2", {}, "Live tail")),
    h("div.tail-bar", {}, field("tail-partition", "Partition", which), field("tail-from", "From", from), pause, clear, said),
    rows,
  ];
  let paused = false;
  let places = new Map();
  let received = 0;
  /** Answers of an earlier choice are late. */
  let choice = 0;

  const begin = () => {
    choice += 1;
    received = 0;
    const chosen = which.value === "all" ? numbers : [Number(which.value)];
    places = new Map(chosen.map((number) => [number, null]));
    rows.replaceChildren(h("p.empty", {}, "Waiting for records"));
    polling.now();
  };
  const queryOf = (place) => {
    if (place !== null) return `offset=${place}&max=200`;
    return from.value === "last" ? `last=${FIRST_ROWS}&max=${FIRST_ROWS}` : `offset=${from.value}&max=200`;
  };
  const add = (fresh) => {
    if (fresh.length === 0) return;
    const follows = rows.scrollHeight - rows.scrollTop - rows.clientHeight < 40;
    rows.querySelector("p.empty")?.remove();
    rows.append(...fresh.slice(-KEPT_ROWS));
    while (rows.childElementCount > KEPT_ROWS) rows.firstElementChild.remove();
    if (follows) rows.scrollTop = rows.scrollHeight;
  };
  const turn = async () => {
    if (paused) return;
    const asked = choice;
    const answers = await Promise.allSettled([...places].map(async ([number, place]) => [number, await getJson(`${path("v1", "topics", topic, "partitions", number, "records")}?${queryOf(place)}`)]));
    if (asked !== choice || paused) return;
    const fresh = [];
    let failure = null;
    for (const answer of answers) {
      if (answer.status === "rejected") {
        failure = answer.reason.message;
        continue;
      }
      const [number, found] = answer.value;
      places.set(number, found.next_offset);
      for (const record of found.records) fresh.push([record.timestamp_ms ?? 0, row(number, record)]);
    }
    if (places.size > 1) fresh.sort(([one], [other]) => one - other);
    received += fresh.length;
    add(fresh.map(([, element]) => element));
    said.textContent = failure ?? `Following, ${plural(received, "record")}`;
  };
  const polling = poll(turn, INTERVAL_MS);
  which.addEventListener("change", begin);
  from.addEventListener("change", begin);
  clear.addEventListener("click", () => rows.replaceChildren(h("p.empty", {}, "Cleared")));
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Resume" : "Pause";
    if (paused) said.textContent = `Paused, ${plural(received, "record")}`;
    else polling.now();
  });
  begin();
  return {
    topic,
    stop: polling.stop,
    /** The content, for the first panel that asks: afterwards that one has it. */
    take: () => (content[0].isConnected ? [] : content),
  };
}
