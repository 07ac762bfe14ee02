// A line over time, with a second one where two belong together. Gaps are gaps.

import { h } from "../lib/dom.js";

const [WIDTH, HEIGHT] = [240, 44];
/** Points across the whole width: fewer begin at its right, more push the oldest out. */
const [FEWEST, MOST] = [30, 90];

function place(values, top) {
  const recent = values.slice(-MOST);
  const across = Math.max(FEWEST, recent.length);
  const step = WIDTH / (across - 1);
  const first = across - recent.length;
  return recent.map((value, at) => [(first + at) * step, value === null ? null : HEIGHT - 2 - (value / top) * (HEIGHT - 6)]);
}

function pathOf(points) {
  let path = "";
  let pen = "M";
  for (const [x, y] of points) {
    if (y === null) {
      pen = "M";
      continue;
    }
    path += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
  }
  return path;
}

/** `said`: what somebody hears who does not see it. */
export function sparkline(values, said, second = []) {
  const known = [...values, ...second].filter((value) => value !== null);
  const top = Math.max(...known, 1e-9);
  const points = place(values, top);
  const line = pathOf(points);
  const solid = points.filter(([, y]) => y !== null);
  const area = solid.length > 1 && solid.length === points.length ? `${line}L${solid[solid.length - 1][0].toFixed(1)} ${HEIGHT}L${solid[0][0].toFixed(1)} ${HEIGHT}Z` : "";
  return h(
    "svg.spark",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": said },
    h("path.base", { d: `M0 ${HEIGHT - 1}H${WIDTH}` }),
    h("path.area", { d: area }),
    h("path.line.second", { d: pathOf(place(second, top)) }),
    h("path.line", { d: line }),
  );
}
