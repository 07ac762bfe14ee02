// What follows from the answers of the node: health, what is wrong, and who does what.

import { byLabel } from "../lib/openmetrics.js";
import { plural, seconds, bytes } from "../lib/format.js";

/** Every actor of the tree with its depth. */
export function flatActors(root) {
  const found = [];
  const walk = (actor, depth) => {
    found.push({ ...actor, depth });
    for (const child of actor.children ?? []) walk(child, depth + 1);
  };
  if (root) walk(root, 0);
  return found;
}

/** Partitions whose in-quorum set is smaller than their replica set, or that have a replica on a dead node. */
export function underReplicated(cluster) {
  const down = new Set(cluster.nodes.filter((node) => node.state === "down").map((node) => node.id));
  return cluster.partitions.filter(({ replicas, in_quorum }) => in_quorum.filter((node) => !down.has(node)).length < replicas.length);
}

export function offline(cluster) {
  return cluster.partitions.filter(({ leader }) => leader === null);
}

function lagFigures(samples) {
  if (!samples) return { lag: new Map(), p99: new Map(), threshold: new Map(), demoted: new Map() };
  const of = (name) => byLabel(samples, name, "follower");
  return {
    lag: of("lance_replication_lag_bytes"),
    p99: of("lance_follower_ack_p99_seconds"),
    threshold: of("lance_follower_ack_threshold_seconds"),
    demoted: of("lance_follower_demoted"),
  };
}

/** Nodes with what the answering node knows of them. */
export function nodesOf(cluster, samples) {
  const figures = lagFigures(samples);
  return cluster.nodes.map((node) => {
    const key = String(node.id);
    const held = cluster.partitions.filter(({ replicas }) => replicas.includes(node.id));
    return {
      ...node,
      isSelf: node.id === cluster.node,
      leads: cluster.partitions.filter(({ leader }) => leader === node.id).length,
      held: held.length,
      evicted: held.filter(({ in_quorum }) => !in_quorum.includes(node.id)).length,
      lag: figures.lag.get(key) ?? null,
      p99: figures.p99.get(key) ?? null,
      threshold: figures.threshold.get(key) ?? null,
      isDemoted: (figures.demoted.get(key) ?? 0) > 0,
    };
  });
}

function problem(tone, text, href) {
  return { tone, text, href };
}

/** What an operator should look at, worst first. */
export function problems(state) {
  const found = [];
  const { cluster, actors, groups } = state;
  if (!cluster) return found;
  if (state.unreachable) found.push(problem("bad", "This node does not answer: what is shown is from before.", "#/"));
  if (cluster.metadata_leader === null) found.push(problem("bad", "The metadata has no leader: nothing can be created, deleted or failed over.", "#/nodes"));
  for (const node of cluster.nodes) {
    if (node.state === "down") found.push(problem("bad", `Node ${node.id} is down.`, "#/nodes"));
    else if (node.state !== "serving") found.push(problem("warn", `Node ${node.id} is ${node.state}.`, "#/nodes"));
  }
  const [without, thin] = [offline(cluster), underReplicated(cluster)];
  if (without.length > 0) found.push(problem("bad", `${plural(without.length, "partition")} without a leader: ${named(without)}.`, "#/topics"));
  for (const { topic, partition, reason } of cluster.partitions.filter((one) => one.state === "stopped")) {
    found.push(problem("bad", `${topic}-${partition} is stopped: ${reason ?? "no reason is told"}.`, `#/topics/${encodeURIComponent(topic)}`));
  }
  if (thin.length > 0) found.push(problem("warn", `${plural(thin.length, "partition")} with a copy that is missing or not waited for: ${named(thin)}.`, "#/topics"));
  for (const node of nodesOf(cluster, state.figures.last?.samples)) {
    if (node.isDemoted && node.evicted === 0) found.push(problem("warn", `Follower ${node.id} is slow: p99 ${seconds(node.p99)}, allowed ${seconds(node.threshold)}.`, "#/nodes"));
  }
  for (const actor of flatActors(actors)) {
    if (actor.state === "restarting" || actor.state === "stopped") found.push(problem("warn", `Actor ${actor.name} is ${actor.state}.`, "#/actors"));
  }
  for (const group of groups?.groups ?? []) {
    const late = group.partitions.filter((one) => (one.lag_seconds ?? 0) > 60);
    const lag = late.reduce((sum, one) => sum + (one.lag_bytes ?? 0), 0);
    if (late.length > 0) found.push(problem("warn", `Group ${group.name} is more than a minute behind in ${plural(late.length, "partition")} (${bytes(lag)}).`, "#/groups"));
  }
  const weight = { bad: 0, warn: 1 };
  return found.sort((one, other) => weight[one.tone] - weight[other.tone]);
}

function named(partitions) {
  const names = partitions.slice(0, 4).map(({ topic, partition }) => `${topic}-${partition}`);
  const rest = partitions.length - names.length;
  return names.join(", ") + (rest > 0 ? ` and ${rest} more` : "");
}

/** One word and a tone for all of it. */
export function health(state) {
  if (state.unreachable) return { tone: "bad", text: "Unreachable" };
  if (state.needsToken) return { tone: "quiet", text: "Signed out" };
  if (!state.cluster) return { tone: "quiet", text: state.error ? "Unknown" : "Connecting" };
  const all = problems(state);
  if (all.some(({ tone }) => tone === "bad")) return { tone: "bad", text: "Needs attention" };
  return all.length > 0 ? { tone: "warn", text: "Degraded" } : { tone: "good", text: "Healthy" };
}
