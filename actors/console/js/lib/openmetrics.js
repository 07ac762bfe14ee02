// The text of /metrics, as samples by name.

const LABEL = /([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPES = { n: "\n", '"': '"', "\\": "\\" };

/** Map from the name of a sample to `[{ labels, value }]`. Lines that are none are passed over. */
export function parse(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    if (line === "" || line[0] === "#") continue;
    const open = line.indexOf("{");
    const close = line.lastIndexOf("}");
    const hasLabels = open > 0 && close > open;
    const name = hasLabels ? line.slice(0, open) : line.slice(0, line.indexOf(" "));
    const value = Number(line.slice(hasLabels ? close + 1 : name.length).trim().split(" ")[0]);
    if (Number.isNaN(value)) continue;
    const labels = {};
    if (hasLabels) {
      for (const [, label, escaped] of line.slice(open + 1, close).matchAll(LABEL)) {
        labels[label] = escaped.replace(/\\(.)/g, (whole, char) => ESCAPES[char] ?? whole);
      }
    }
    if (!samples.has(name)) samples.set(name, []);
    samples.get(name).push({ labels, value });
  }
  return samples;
}

/** The sum of a name's samples; null where there are none. */
export function total(samples, name) {
  const found = samples.get(name);
  return found ? found.reduce((sum, sample) => sum + sample.value, 0) : null;
}

/** Map from the value of one label to the sample's value. */
export function byLabel(samples, name, label) {
  return new Map((samples.get(name) ?? []).map((sample) => [sample.labels[label], sample.value]));
}
