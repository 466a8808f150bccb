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

/** How cells that are not values are drawn. */
export const fetchAppearance = () => get('appearance.json');

/** One table: layers × measurements, or units × measurements of one layer. */
export const fetchTable = async (run, prefix, layer) =>
  new Table(await get('table', {run, prefix, ...(layer ? {layer} : {})}));

/** The tags of scalars that several runs have; or the last value of `tag` in each run. */
export const fetchScalars = (tag) => get('scalars', tag === undefined ? {} : {tag});

export class Table {
  /**
   * @param content an answer of the server. `of` is how many units the layer has, some of which may have been left out;
   *   what a name's short form, shape or block is may be unknown.
   */
  constructor({values, cells, ...content}) {
    const numbers = new DataView(bytes(values).buffer);
    this.assign({
      ...content,
      values: Float32Array.from({length: numbers.byteLength / 4}, (_, index) => numbers.getFloat32(4 * index, true)),
      codes: cells === undefined ? null : bytes(cells),
      correlation: content.depth_correlation ?? null,
    });
  }

  assign({label, signed, share, layers, of, steps, epochs, values, codes, correlation, ...known}) {
    const {scales = null, spans = null, findings = null, shapes = {}, short = null, blocks = null, words = {}} = known;
    Object.assign(this, {label, signed, share, layers, of: of ?? layers.length, steps, epochs, values, correlation});
    Object.assign(this, {scales, spans, findings, shapes, short, blocks, words, memberOf: known.memberOf ?? null});
    this.codes = codes ?? guess(values, this.linear);
    this.rowOf = new Map(layers.map((layer, row) => [layer, row]));
    return this;
  }

  /** This table with other rows and values. */
  derive(changes) {
    return Object.create(Table.prototype).assign({...this, short: null, ...changes});
  }

  /** What a row is called where there is little room. */
  shortOf(layer) {
    return this.short?.[this.rowOf.get(layer)] ?? layer;
  }

  blockOf(layer) {
    return this.blocks?.[this.rowOf.get(layer)];
  }

  codeOf(layer, column) {
    return this.codes[this.rowOf.get(layer) * this.steps.length + column];
  }

  /** The codes of `layers`, row by row. */
  codesOf(layers) {
    const columns = this.steps.length;
    const found = new Uint8Array(layers.length * columns);
    layers.forEach((layer, row) => {
      const start = this.rowOf.get(layer) * columns;
      found.set(this.codes.subarray(start, start + columns), row * columns);
    });
    return found;
  }

  /** The curve of a layer; a view, not a copy. */
  row(index) {
    return this.values.subarray(index * this.steps.length, (index + 1) * this.steps.length);
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

const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

/** The column since which none of `layers` has had a number, or -1 if one has in the last column. */
export function lostSince(table, layers) {
  const columns = table.steps.length;
  const last = layers.map((layer) => table.row(table.rowOf.get(layer)).findLastIndex(Number.isFinite));
  const lost = last.reduce((most, one) => Math.max(most, one), -1) + 1;
  return layers.length && lost < columns ? lost : -1;
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

/** The table with the longest prefix that `prefix` is or continues. */
export function closest(tables, prefix) {
  const fitting = tables.filter((one) => prefix === one.prefix || prefix.startsWith(`${one.prefix}_`));
  return fitting.sort((a, b) => b.prefix.length - a.prefix.length)[0];
}

export function readable(value) {
  if (Number.isFinite(value)) {
    const rounded = Number(value.toPrecision(4));
    return rounded && Math.abs(rounded) < 1e-4 ? rounded.toExponential() : rounded.toString();
  }
  return Number.isNaN(value) ? 'nan' : value > 0 ? 'inf' : '-inf';
}
