// SPDX-License-Identifier: Apache-2.0
// Tables from the server, and everything that is computed from them. Nothing here knows the page.
import {guess} from './cells.js';

async function get(route, parameters = {}) {
  const response = await fetch(`./${route}?${new URLSearchParams(parameters)}`);
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  return response.json();
}

/** Every table of every run: [{run, prefix, layer, label, layers, newest}]. Tables of units have a `layer`. */
export const fetchSeries = async () => (await get('runs')).series;

/** One table: layers × measurements, or units × measurements of one layer. */
export const fetchTable = async (run, prefix, layer) =>
  new Table(await get('table', {run, prefix, ...(layer ? {layer} : {})}));

/** The tags of scalars that several runs have; or the last value of `tag` in each run. */
export const fetchScalars = (tag) => get('scalars', tag === undefined ? {} : {tag});

export class Table {
  /** `of` is how many units the layer has, some of which may have been left out. */
  constructor({label, signed, share, layers, of, steps, epochs, values}) {
    Object.assign(this, {label, signed, share, layers, of: of ?? layers.length, steps, epochs});
    const bytes = Uint8Array.from(atob(values), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    this.values = Float32Array.from({length: bytes.length / 4}, (_, index) => view.getFloat32(4 * index, true));
    this.codes = guess(this.values, this.linear);
    this.rowOf = new Map(layers.map((layer, row) => [layer, row]));
  }

  /** The curve of a layer; a view, not a copy. */
  row(index) {
    return this.values.subarray(index * this.steps.length, (index + 1) * this.steps.length);
  }

  column(index) {
    return this.layers.map((_, row) => this.values[row * this.steps.length + index]);
  }

  /** Whether scales are linear, whatever the user has chosen. */
  get linear() {
    return this.signed || this.share;
  }

  /** The epoch or step of each measurement; `axis` is a name of align.js. */
  times(axis) {
    return axis === 'epoch' ? this.epochs : this.steps;
  }
}

/** The layers to show, from top to bottom. */
export function arrange(table, {sort, filter}) {
  let expression = null;
  try {
    expression = filter ? new RegExp(filter.slice(0, 200), 'i') : null;
  } catch {
    return {layers: [], error: 'not a regular expression'};
  }
  const layers = table.layers.filter((layer) => !expression || expression.test(layer.slice(0, 1000)));
  const last = (layer) => {
    const value = table.row(table.rowOf.get(layer)).findLast((number) => !Number.isNaN(number));
    return value ?? -Infinity;
  };
  if (sort === 'name') layers.sort(new Intl.Collator('en', {numeric: true}).compare);
  if (sort === 'value') {
    const values = new Map(layers.map((layer) => [layer, last(layer)]));
    layers.sort((a, b) => values.get(b) - values.get(a) || 0);
  }
  return {layers, error: ''};
}

/** TensorBoard's exponential moving average, which has no bias at the start. */
export function smooth(curve, weight) {
  if (!weight) return curve;
  let [sum, total] = [0, 0];
  return Array.from(curve, (value) => {
    if (!Number.isFinite(value)) return value;
    sum = sum * weight + value * (1 - weight);
    total = total * weight + (1 - weight);
    return sum / total;
  });
}

/** Spearman's rank correlation between depth and value; nan where it is undefined. */
export function depthCorrelation(values) {
  const present = values.filter((value) => !Number.isNaN(value));
  const order = present.map((_, index) => index).sort((a, b) => present[a] - present[b] || 0);
  const ranks = new Array(present.length);
  for (let start = 0; start < order.length; ) {
    let end = start;
    while (end + 1 < order.length && present[order[end + 1]] === present[order[start]]) end++;
    for (let i = start; i <= end; i++) ranks[order[i]] = (start + end) / 2;
    start = end + 1;
  }
  const middle = (present.length - 1) / 2;
  let [product, spread, depths] = [0, 0, 0];
  ranks.forEach((rank, depth) => {
    product += (rank - middle) * (depth - middle);
    spread += (rank - middle) ** 2;
    depths += (depth - middle) ** 2;
  });
  return spread ? product / Math.sqrt(spread * depths) : NaN;
}

/** The table with the longest prefix that `prefix` is or continues. */
export function closest(tables, prefix) {
  const fitting = tables.filter((one) => prefix === one.prefix || prefix.startsWith(`${one.prefix}_`));
  return fitting.sort((a, b) => b.prefix.length - a.prefix.length)[0];
}

/** The smallest and largest finite values, above zero where the scale is logarithmic. */
export function limits(tables, logarithmic) {
  let [low, high] = [Infinity, -Infinity];
  for (const table of tables) {
    for (const value of table.values) {
      if (Number.isFinite(value) && (!logarithmic || value > 0)) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
  }
  if (low > high) return logarithmic ? [1e-6, 1] : [0, 1];
  return logarithmic ? [Math.max(low, high / 1e6), high] : [low, high];
}

export function readable(value) {
  if (Number.isFinite(value)) {
    const rounded = Number(value.toPrecision(4));
    return rounded && Math.abs(rounded) < 1e-4 ? rounded.toExponential() : rounded.toString();
  }
  return Number.isNaN(value) ? 'nan' : value > 0 ? 'inf' : '-inf';
}
