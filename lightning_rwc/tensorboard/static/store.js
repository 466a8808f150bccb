// SPDX-License-Identifier: Apache-2.0
// What the log holds, and the tables that are shown.
import {closest} from './data.js';
import {compareNames} from './sweep.js';

/**
 * What can be chosen of `series`, or null if there is nothing.
 *
 * @param state what is chosen: {run, other, prefix, layer}
 * @returns {runs, tables, opens, state, gone}: names of runs, the newest first, the series of the run, the layers that
 *   have units, `state` with something that is there in place of what is not, and the names of runs that are not there
 */
export function choices(series, {run, other, prefix, layer}) {
  const ofLayers = series.filter((one) => one.layer === null);
  const runs = newestFirst(ofLayers);
  if (!runs.length) return null;
  const gone = [run, other].filter((name) => name && !runs.includes(name));
  if (!runs.includes(run)) run = runs[0];
  if (other === run || !runs.includes(other)) other = '';
  const here = series.filter((one) => one.run === run);
  if (!here.some((one) => one.layer === (layer || null))) layer = '';
  const tables = here.filter((one) => one.layer === (layer || null));
  if (!tables.some((one) => one.prefix === prefix)) prefix = (closest(tables, prefix) ?? tables[0]).prefix;
  const openable = here.filter((one) => one.layer !== null && closest([one], prefix));
  return {runs, tables, opens: new Set(openable.map((one) => one.layer)), state: {run, other, prefix, layer}, gone};
}

/**
 * What is chosen while a link waits for what it names, which TensorBoard may not have read yet.
 *
 * @param link {run, other, prefix, layer}. Until its run is there, the one that is shown stays, alone.
 */
export function linked(series, state, link) {
  if (!link) return state;
  const there = series.some((one) => one.layer === null && one.run === link.run);
  return {...state, ...link, ...(there ? {} : {run: state.run, other: ''})};
}

/** Whether `state` has all that a link names. */
export const fulfils = (state, link) => Object.entries(link).every(([name, value]) => !value || state[name] === value);

/** The names of the runs of `series`; of those that were written at the same time, in the order of names. */
export function newestFirst(series) {
  const newest = new Map();
  for (const one of series) newest.set(one.run, Math.max(newest.get(one.run) ?? -Infinity, one.newest));
  return [...newest.keys()].sort((a, b) => newest.get(b) - newest.get(a) || compareNames(a, b));
}

export class Store {
  /** @param fetched called with run, prefix and layer, for a table */
  constructor(fetched) {
    this.fetched = fetched;
    this.series = [];
    this.tables = {};
    this.turn = 0;
  }

  /** Fetch the tables of `runs` that are new or have grown. Returns whether any has, unless a later call has begun. */
  async load(runs, {prefix, layer}) {
    const turn = ++this.turn;
    const wanted = {};
    const loadOne = async (run) => {
      const there = (one) => one.run === run && one.prefix === prefix && one.layer === (layer || null);
      const series = this.series.find(there);
      if (!series) return;
      const key = keyOf(run, {prefix, layer});
      const known = this.tables[key];
      wanted[key] =
        known?.newest === series.newest ? known : {...series, table: await this.fetched(run, prefix, layer)};
    };
    await Promise.all(runs.map(loadOne));
    if (turn !== this.turn) return false;
    const before = this.tables;
    this.tables = wanted;
    return Object.keys({...before, ...wanted}).some((key) => before[key] !== wanted[key]);
  }

  /** The table of a run, or undefined if it is not loaded. */
  table(run, state) {
    return this.tables[keyOf(run, state)]?.table;
  }
}

const keyOf = (run, {prefix, layer}) => JSON.stringify([run, prefix, layer]);
