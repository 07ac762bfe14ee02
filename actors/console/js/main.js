// The page: which view is shown, what stands around it, and who is told of clicks.

import { h, patch } from "./lib/dom.js";
import { time } from "./lib/format.js";
import { startTheme } from "./lib/theme.js";
import { health, problems } from "./state/cluster.js";
import { isSignedIn, onChange, signOut, start, state } from "./state/store.js";
import { actors } from "./views/actors.js";
import { createTopic, deleteTopic, drainNode } from "./views/create_topic.js";
import { events } from "./views/events.js";
import { groups } from "./views/groups.js";
import { nodes } from "./views/nodes.js";
import { overview } from "./views/overview.js";
import { refusal, signInForm } from "./views/sign_in.js";
import { leaveTail } from "./views/tail.js";
import { topic } from "./views/topic.js";
import { topics } from "./views/topics.js";

const VIEWS = [
  { name: "", title: "Overview", count: () => problems(state).length || null, tone: "bad" },
  { name: "nodes", title: "Nodes", count: () => state.cluster?.nodes.length },
  { name: "topics", title: "Topics", count: () => state.topics?.length },
  { name: "groups", title: "Groups", count: () => state.groups?.groups.length },
  { name: "actors", title: "Actors", count: () => null },
  { name: "events", title: "Events", count: () => null },
];
const ACTIONS = { "create-topic": createTopic, "delete-topic": deleteTopic, "drain": drainNode, "sign-out": signOut };

const byId = (id) => document.getElementById(id);

/** The parts of the path behind `#/`; what cannot be decoded is taken as it stands. */
function route() {
  const decode = (part) => {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  };
  return location.hash.replace(/^#\/?/, "").split("/").map(decode);
}

function view([name, detail]) {
  switch (name) {
    case "nodes": return nodes(state);
    case "topics": return detail ? topic(state, detail) : topics(state);
    case "groups": return groups(state);
    case "actors": return actors(state);
    case "events": return events(state, detail);
    default: return overview(state);
  }
}

function drawNavigation(current) {
  const link = ({ name, title, count, tone }) => {
    const number = count();
    return h("a", { href: `#/${name}`, "aria-current": name === current ? "page" : null }, title, number === null || number === undefined ? null : h("span.count", { "data-tone": tone }, number));
  };
  patch(byId("nav"), VIEWS.map(link));
}

function drawBar() {
  const { tone, text } = health(state);
  const pill = byId("health");
  pill.setAttribute("data-tone", tone);
  // Said anew only when it is another word.
  if (pill.textContent !== text) pill.textContent = text;
  const own = state.cluster;
  byId("place").textContent = own?.node ? `Node ${own.node} of ${own.nodes.length}` : "";
  const who = state.who?.principal;
  patch(byId("who"), isSignedIn() ? [who ?? "", h("button.ghost.small", { type: "button", "data-action": "sign-out" }, "Sign out")] : []);
}

let drawn = null;

function draw() {
  const parts = route();
  const main = byId("main");
  const known = VIEWS.some(({ name }) => name === parts[0]);
  const current = known ? parts[0] : "";
  drawBar();
  drawNavigation(current);
  leaveTail(current === "topics" && !state.needsToken ? parts[1] : undefined);
  document.title = `${parts[1] && current === "topics" ? parts[1] : VIEWS.find(({ name }) => name === current).title} · LANCE`;
  const shown = [];
  if (state.unreachable) {
    const since = state.heardAtMs === null ? [] : [" It was heard of ", time(state.heardAtMs), "."];
    shown.push(h("p.notice", { "data-tone": "bad", "data-key": "unreachable" }, "This node does not answer.", since));
  }
  if (state.needsToken) shown.push(signInForm());
  else {
    if (state.error) shown.push(refusal(state.error));
    if (!state.error || state.cluster) shown.push(view([current, parts[1]]));
  }
  main.classList.toggle("stale", state.unreachable);
  patch(main, shown);
  const place = location.hash;
  if (drawn !== null && drawn !== place) {
    window.scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
  drawn = place;
}

document.addEventListener("click", (event) => {
  const target = event.target instanceof Element ? event.target.closest("[data-action]") : null;
  if (target) ACTIONS[target.dataset.action]?.(target.dataset);
});
// The anchor that skips to the content is no view.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
window.addEventListener("hashchange", draw);
startTheme(byId("theme"));
onChange(draw);
draw();
start();
