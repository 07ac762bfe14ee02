// Quantiles from histograms with cumulative buckets: of what was counted between two scrapes.

/** `[[bound, cumulative count]]` in order of bounds. */
export function buckets(samples, name) {
  const found = (samples.get(`${name}_bucket`) ?? []).map(({ labels, value }) => [labels.le === "+Inf" ? Infinity : Number(labels.le), value]);
  return found.sort((one, other) => one[0] - other[0]);
}

/** The quantile of what `after` counts and `before` does not; null where that is nothing. */
export function quantile(before, after, q) {
  const earlier = new Map(before);
  const counts = after.map(([bound, value]) => [bound, value - (earlier.get(bound) ?? 0)]);
  const all = counts.length > 0 ? counts[counts.length - 1][1] : 0;
  if (!(all > 0)) return null;
  const rank = q * all;
  let [low, below] = [0, 0];
  for (const [bound, cumulative] of counts) {
    if (cumulative >= rank) {
      if (bound === Infinity) return low;
      const inside = cumulative - below;
      return inside > 0 ? low + (bound - low) * ((rank - below) / inside) : bound;
    }
    [low, below] = [bound, cumulative];
  }
  return low;
}
