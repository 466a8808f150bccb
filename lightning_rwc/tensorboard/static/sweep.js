// SPDX-License-Identifier: Apache-2.0
// Many runs: which are shown, in which order, in which groups, and what a group is. Nothing here knows the page.
import {CODES} from './cells.js';

const MOST_LETTERS = 1000;
const NUMBER = /(\d+(?:\.\d+)?(?:e[-+]?\d+)?)/;

/** The run names that an expression finds, or null while it is not a regular expression. */
export function filtered(names, text) {
  try {
    const expression = new RegExp(text.slice(0, MOST_LETTERS), 'i');
    return names.filter((name) => expression.test(name.slice(0, 1000)));
  } catch {
    return null;
  }
}

/**
 * The name of a run's group: the name with `*` where the pattern's `*` matches. A `*` matches within one part of a
 * path. A name that the pattern does not match is its own group.
 */
export function groupOf(name, pattern) {
  const pieces = pattern.slice(0, MOST_LETTERS).split('*');
  if (pieces.length < 2) return name;
  for (let start = name.indexOf(pieces[0]); start >= 0; start = name.indexOf(pieces[0], start + 1)) {
    const end = matchEnd(name, start + pieces[0].length, pieces.slice(1));
    if (end > start) return name.slice(0, start) + pattern + name.slice(end);
  }
  return name;
}

/** Where what `pieces` match ends, if a `*` is before each of them; -1 if they do not match. */
function matchEnd(name, from, pieces) {
  let at = from;
  for (const [index, piece] of pieces.entries()) {
    const slash = name.indexOf('/', at);
    const part = slash < 0 ? name.length : slash;
    const found = piece === '' && index === pieces.length - 1 ? part : name.indexOf(piece, at);
    if (found < 0 || found > part) return -1;
    at = found + piece.length;
  }
  return at;
}

/** Groups in the order of their first runs: [{name, runs}]. */
export function grouped(names, pattern) {
  const groups = new Map();
  for (const name of names) {
    const group = groupOf(name, pattern);
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push(name);
  }
  return [...groups].map(([name, runs]) => (runs.length > 1 ? {name, runs} : {name: runs[0], runs}));
}

/** The order of names by their numbers: `lr=0.003` before `lr=0.03`, and `seed_2` before `seed_10`. */
export function compareNames(a, b) {
  const [first, second] = [a, b].map((name) => name.slice(0, 1000).split(NUMBER));
  for (let part = 0; part < Math.min(first.length, second.length); part++) {
    if (first[part] === second[part]) continue;
    // Every second part is a number.
    const apart = part % 2 ? Number(first[part]) - Number(second[part]) : 0;
    return apart || (first[part] < second[part] ? -1 : 1);
  }
  return first.length - second.length || (a < b ? -1 : Number(a > b));
}

/**
 * Groups in order.
 *
 * @param by 'name', 'newest', 'lowest' or 'highest'
 * @param numbers run to when it was written, or to its scalar. A group has the mean of its runs; one without any number
 *   comes last.
 */
export function sorted(groups, by, numbers = {}) {
  const byName = [...groups].sort((a, b) => compareNames(a.name, b.name));
  if (by === 'name') return byName;
  const of = new Map(groups.map((group) => [group, by === 'newest' ? newest(group, numbers) : mean(group, numbers)]));
  const sign = by === 'lowest' ? 1 : -1;
  const missing = (group) => Number(!Number.isFinite(of.get(group)));
  return byName.sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : sign * (of.get(a) - of.get(b))));
}

/** The mean of the runs of a group that have a number; nan if none has. */
export function mean({runs}, numbers) {
  return middle(runs.map((run) => numbers[run])) ?? NaN;
}

const newest = ({runs}, numbers) => Math.max(...runs.map((run) => numbers[run] ?? -Infinity));

/**
 * The rows of each of several tables. Tables that share at least half of their layers have the same rows: all their
 * layers, each after the one that it follows. Others have rows of their own.
 */
export function rowsOf(tables) {
  const families = [];
  const own = tables.map(({layers}) => {
    const shares = ({known}) => layers.filter((layer) => known.has(layer)).length;
    let family = families.find((one) => 2 * shares(one) >= Math.min(layers.length, one.rows.length));
    if (!family) families.push((family = {rows: [], known: new Set()}));
    let at = 0;
    for (const layer of layers) {
      const there = family.known.has(layer) ? family.rows.indexOf(layer) : -1;
      if (there < 0) family.rows.splice(at, 0, layer);
      family.known.add(layer);
      at = (there < 0 ? at : there) + 1;
    }
    return family;
  });
  return own.map(({rows}) => rows);
}

/**
 * One table of several runs: the geometric mean of each cell, or the mean if the quantity can be negative or is a
 * share, and the range. The geometric mean is of what is above zero.
 *
 * @param tables of the same rows and columns, of `project` in align.js
 * @returns a table with `low` and `high` beside `values`. Its codes are those that all runs have; otherwise a cell is
 *   not finite if it is in any run, and a value if it is in any other run.
 */
export function together(tables) {
  const [first] = tables;
  const geometric = !(first.signed || first.share);
  const [values, low, high] = [0, 1, 2].map(() => new Float32Array(first.values.length).fill(NaN));
  const codes = new Uint8Array(first.values.length).fill(CODES.missing);
  for (let cell = 0; cell < values.length; cell++) {
    const measured = tables.filter((table) => table.codes[cell] !== CODES.missing);
    if (!measured.length) continue;
    const all = measured.map((table) => table.values[cell]);
    codes[cell] = codeOfAll(measured.map((table) => table.codes[cell]));
    const finite = all.filter(Number.isFinite);
    const usable = geometric ? finite.filter((value) => value > 0) : finite;
    const total = usable.reduce((sum, value) => sum + (geometric ? Math.log(value) : value), 0) / usable.length;
    values[cell] = usable.length ? (geometric ? Math.exp(total) : total) : all[0];
    if (finite.length) [low[cell], high[cell]] = [Math.min(...finite), Math.max(...finite)];
  }
  const spans = first.spans && first.spans.map((_, column) => middle(tables.map((table) => table.spans?.[column])));
  return Object.assign(Object.create(first), {values, low, high, codes, spans});
}

function middle(numbers) {
  const there = numbers.filter(Number.isFinite);
  return there.length ? there.reduce((sum, number) => sum + number, 0) / there.length : null;
}

function codeOfAll(codes) {
  if (codes.every((code) => code === codes[0])) return codes[0];
  return [CODES.not_finite, CODES.value].find((code) => codes.includes(code)) ?? codes[0];
}

/** What the paths of all names start with, up to and including a slash. */
export function commonPath(names) {
  const [first = ''] = names;
  let end = first.lastIndexOf('/') + 1;
  while (end > 0 && !names.every((name) => name.startsWith(first.slice(0, end)))) {
    end = first.lastIndexOf('/', end - 2) + 1;
  }
  return first.slice(0, end);
}
