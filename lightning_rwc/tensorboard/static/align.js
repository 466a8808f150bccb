// SPDX-License-Identifier: Apache-2.0
// Several runs over one x axis. Nothing here knows the page.
import {CODES} from './cells.js';

/** How the axis is called. */
const AXES = {epoch: 'epoch', step: 'step', share: 'share of the run (%)'};
const MOST_COLUMNS = 1000;
const ROUNDING = 1e-9;

const oneAnEpoch = ({epochs}) => epochs.every((epoch, i) => epoch !== null && (i === 0 || epoch > epochs[i - 1]));

/** What these tables can be aligned by. Epochs only count where no epoch of any table has two measurements. */
export const possible = (tables) => (tables.every(oneAnEpoch) ? ['epoch', 'step', 'share'] : ['step', 'share']);

/** What a control offers for these tables: pairs of value and text. */
export const axisChoices = (tables) => possible(tables).map((by) => [by, AXES[by]]);

/** `wanted`, or else epoch, or else step. */
export function chosen(tables, wanted) {
  const all = possible(tables);
  return all.includes(wanted) ? wanted : all[0];
}

/** Where each measurement of a table is on the axis, in ascending order. */
export function positions({steps, epochs}, by) {
  if (by === 'epoch') return epochs;
  if (by === 'step') return steps;
  const [first, last] = [steps[0], steps[steps.length - 1]];
  return steps.map((step) => (last > first ? (100 * (step - first)) / (last - first) : 100));
}

/**
 * Columns that all tables share. At each of them a table shows the measurement that is nearest, if it is within half
 * of its distance from the next one. Of two that are equally near, the later one counts: it reaches back to the other.
 *
 * @param by 'epoch', 'step' or 'share'
 * @returns {by, name, x, at}: the axis, its name, the position of each column, and for each table the measurement that
 *   each column shows, or -1
 */
export function align(tables, by, most = MOST_COLUMNS) {
  const places = tables.map((table) => positions(table, by));
  const x = by === 'share' ? percents(places, most) : evenly(places.flat(), most);
  const spacing = x.length > 1 ? x[1] - x[0] : 1;
  return {by, name: AXES[by], x, at: places.map((place) => nearest(place, x, spacing))};
}

/**
 * A table with one column for each of `x` and one row for each of `layers`, whether it has them or not; `at` is of
 * `align`. Its `steps` and `epochs` are those of the measurement that a column shows, or null, and its `times` are `x`.
 */
export function project(table, at, x, layers = table.layers) {
  const {length} = table.steps;
  const values = new Float32Array(layers.length * x.length).fill(NaN);
  const codes = new Uint8Array(values.length).fill(CODES.missing);
  layers.forEach((layer, row) => {
    if (!table.rowOf.has(layer)) return;
    const [to, from] = [row * x.length, table.rowOf.get(layer) * length];
    at.forEach((column, place) => {
      if (column < 0) return;
      values[to + place] = table.values[from + column];
      codes[to + place] = table.codes[from + column];
    });
  });
  const shown = (list) => list && Array.from(at, (column) => (column < 0 ? null : list[column]));
  const [steps, epochs, spans] = [table.steps, table.epochs, table.spans].map(shown);
  const columns = {steps, epochs, spans, values, codes, times: () => x};
  return Object.assign(Object.create(table), columns, layers === table.layers ? {} : named(layers));
}

/** What a table knows of its rows if all that is known of them is their names. */
const named = (layers) => {
  const rowOf = new Map(layers.map((layer, row) => [layer, row]));
  return {layers, rowOf, of: layers.length, short: null, blocks: null, shapes: {}};
};

/**
 * All positions of several lists, for curves.
 *
 * @returns {x, at}: the positions, ascending, and for each list which of its elements is at each position, or -1
 */
export function join(lists) {
  const x = [...new Set(lists.flat())].sort((a, b) => a - b);
  const at = lists.map((list) => {
    const index = new Map(list.map((position, i) => [position, i]));
    return Int32Array.from(x, (position) => index.get(position) ?? -1);
  });
  return {x, at};
}

/** One run, or two, over one axis and with the rows of the first one. */
export class Aligned {
  /**
   * `tables` have a column for each of `x`, and `at` says for each table which measurement a column shows. `curves` are
   * of `join`. A single run keeps its own columns.
   */
  constructor(tables, wanted) {
    Object.assign(this, {own: tables, wanted});
    this.by = chosen(tables, tables.length > 1 ? wanted : '');
    this.name = AXES[this.by];
    this.curves = join(tables.map((table) => positions(table, this.by)));
    if (tables.length > 1) {
      Object.assign(this, align(tables, this.by));
      const [{layers, short, blocks, shapes}] = tables;
      const rows = {short, blocks, shapes};
      this.tables = tables.map((table, index) => Object.assign(project(table, this.at[index], this.x, layers), rows));
    } else {
      Object.assign(this, {x: this.curves.x, at: this.curves.at, tables});
    }
  }

  /** The column that is nearest to a position on the axis. */
  place(position) {
    return this.x.reduce((best, x, i) => (Math.abs(x - position) < Math.abs(this.x[best] - position) ? i : best), 0);
  }

  /** The position of a measurement of the first run. */
  time(column) {
    return positions(this.own[0], this.by)[column];
  }
}

/** Which layers two tables share, and which only one of them has. */
export function matching(first, second) {
  return {
    both: first.layers.filter((layer) => second.rowOf.has(layer)),
    first: first.layers.filter((layer) => !second.rowOf.has(layer)),
    second: second.layers.filter((layer) => !first.rowOf.has(layer)),
  };
}

function percents(places, most) {
  const longest = Math.max(2, ...places.map(({length}) => length));
  const parts = [100, 200, 500, 1000].find((count) => count >= Math.min(longest, most) - 1) ?? 1000;
  return Array.from({length: parts + 1}, (_, part) => (100 * part) / parts);
}

/** Whole numbers from the lowest to the highest, as far apart as the positions allow. */
function evenly(all, most) {
  if (!all.length) return [];
  const low = all.reduce((least, position) => Math.min(least, position));
  const high = all.reduce((largest, position) => Math.max(largest, position));
  const divisor = all.reduce((shared, position) => gcd(shared, position - low), 0) || 1;
  const width = (high - low) / divisor < most ? divisor : Math.ceil((high - low) / (most - 1));
  return Array.from({length: Math.floor((high - low) / width) + 1}, (_, column) => low + column * width);
}

const gcd = (a, b) => (b ? gcd(b, a % b) : a);

function nearest(place, x, spacing) {
  const last = place.length - 1;
  const [before, after] = last > 0 ? [place[1] - place[0], place[last] - place[last - 1]] : [spacing, spacing];
  let index = 0;
  return Int32Array.from(x, (position) => {
    while (index < last && place[index + 1] - position <= position - place[index] + ROUNDING) index++;
    const inside = position >= place[0] - before / 2 && position < place[last] + after / 2;
    return last >= 0 && inside ? index : -1;
  });
}
