// Numbers, sizes and times as people read them.

import { h } from "./dom.js";

export const NONE = "–";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function count(value) {
  return value === null || value === undefined ? NONE : whole.format(value);
}

/** Three figures at most, with a unit that fits. */
function scaled(value, step, units) {
  let at = 0;
  let rest = value;
  while (rest >= step && at < units.length - 1) {
    rest /= step;
    at += 1;
  }
  const digits = rest >= 100 || at === 0 && Number.isInteger(rest) ? 0 : rest >= 10 ? 1 : 2;
  return [rest.toFixed(digits), units[at]];
}

export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  return scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]).join(" ");
}

export function short(value) {
  if (value === null || value === undefined) return NONE;
  return scaled(value, 1000, ["", "k", "M", "G", "T"]).join(" ").trim();
}

/** A duration given in seconds. */
export function seconds(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  if (value === 0) return "0 s";
  if (value < 1e-3) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 1) return `${(value * 1e3).toFixed(value < 0.01 ? 2 : value < 0.1 ? 1 : 0)} ms`;
  if (value < 90) return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} s`;
  if (value < 5400) return `${Math.round(value / 60)} min`;
  if (value < 172800) return `${Math.round(value / 3600)} h`;
  return `${Math.round(value / 86400)} d`;
}

export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

function ago(ms) {
  const past = Math.max(0, Date.now() - ms) / 1000;
  if (past < 2) return "just now";
  return past < 90 ? `${Math.round(past)} s ago` : `${seconds(past)} ago`;
}

/** How long ago, with the exact time for who points at it. */
export function time(ms) {
  const at = new Date(ms);
  if (Number.isNaN(at.getTime())) return NONE;
  return h("time", { datetime: at.toISOString(), title: at.toLocaleString() }, ago(ms));
}

export function clock(ms) {
  const at = new Date(ms);
  return Number.isNaN(at.getTime()) ? NONE : at.toLocaleTimeString([], { hour12: false }) + `.${String(at.getMilliseconds()).padStart(3, "0")}`;
}
