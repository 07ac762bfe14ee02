// What the node's counters say of the time between two scrapes.

import { buckets, quantile } from "../lib/histogram.js";
import { total } from "../lib/openmetrics.js";

/** Scrapes that are kept: four minutes. */
const KEPT = 120;
const RATES = {
  producedBytes: "lance_produced_bytes_total",
  producedRecords: "lance_produced_records_total",
  fetchedBytes: "lance_fetched_bytes_total",
};
const LATENCIES = { produce: "lance_produce_latency_seconds", fetch: "lance_fetch_latency_seconds", sync: "lance_sync_latency_seconds" };

export function emptyFigures() {
  return { last: null, series: [] };
}

function rate(before, after, name, elapsed) {
  const [earlier, later] = [total(before, name), total(after, name)];
  // A counter that went back belongs to a process that was started anew.
  return earlier === null || later === null || later < earlier ? null : (later - earlier) / elapsed;
}

/** Adds a scrape taken at `atMs`. */
export function addScrape(figures, samples, atMs) {
  const last = figures.last;
  figures.last = { samples, atMs };
  if (last === null || atMs <= last.atMs) return;
  const elapsed = (atMs - last.atMs) / 1000;
  const point = { atMs };
  for (const [key, name] of Object.entries(RATES)) point[key] = rate(last.samples, samples, name, elapsed);
  for (const [key, name] of Object.entries(LATENCIES)) {
    const [before, after] = [buckets(last.samples, name), buckets(samples, name)];
    point[`${key}P50`] = quantile(before, after, 0.5);
    point[`${key}P99`] = quantile(before, after, 0.99);
  }
  figures.series.push(point);
  if (figures.series.length > KEPT) figures.series.shift();
}

/** One figure over time, and its last value. */
export function seriesOf(figures, key) {
  const values = figures.series.map((point) => point[key]);
  return { values, last: values.length > 0 ? values[values.length - 1] : null };
}
