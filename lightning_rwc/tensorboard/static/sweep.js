// SPDX-License-Identifier: Apache-2.0
// Many runs: which are shown, in which order, in which groups, and what a group is. Nothing here knows the page.

const collator = new Intl.Collator('en', {numeric: true});
const MOST_LETTERS = 200;

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
 * The name of a run's group: the name with `*` where the pattern's `*` matches. A `*` matches within one part of a path.
 * A name that the pattern does not match is its own group.
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

/**
 * Groups in order.
 *
 * @param by 'name', 'newest', 'lowest' or 'highest'
 * @param numbers run to when it was written, or to its scalar. A group has the mean of its runs; one without any number
 *   comes last.
 */
export function sorted(groups, by, numbers = {}) {
  const byName = [...groups].sort((a, b) => collator.compare(a.name, b.name));
  if (by === 'name') return byName;
  const of = new Map(groups.map((group) => [group, by === 'newest' ? newest(group, numbers) : mean(group, numbers)]));
  const sign = by === 'lowest' ? 1 : -1;
  const missing = (group) => Number(!Number.isFinite(of.get(group)));
  return byName.sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : sign * (of.get(a) - of.get(b))));
}

/** The mean of the runs of a group that have a number; nan if none has. */
export function mean({runs}, numbers) {
  const there = runs.map((run) => numbers[run]).filter((number) => Number.isFinite(number));
  return there.length ? there.reduce((sum, number) => sum + number, 0) / there.length : NaN;
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
 * One table of several runs over the same columns: the geometric mean of each cell, or the mean if the quantity can be
 * negative or is a share, and the range. Zeros count where all runs have zero, since a geometric mean with one is zero.
 *
 * @param tables of `project` in align.js
 * @returns a table with `low` and `high` beside `values`, and in `cells` the code of the runs, or 0 where they differ
 */
export function together(tables, layers, codes) {
  const [first] = tables;
  const columns = first.steps.length;
  const geometric = !(first.signed || first.share);
  const size = layers.length * columns;
  const [values, low, high] = [0, 1, 2].map(() => new Float32Array(size).fill(NaN));
  const cells = new Uint8Array(size).fill(codes.missing);
  layers.forEach((layer, row) => {
    const there = tables.filter((table) => table.rowOf.has(layer));
    for (let column = 0; column < columns; column++) {
      const at = row * columns + column;
      const cell = there.map((table) => table.rowOf.get(layer) * columns + column);
      const seen = there.map((table, run) => ({value: table.values[cell[run]], code: codeOf(table, cell[run], codes)}));
      const measured = seen.filter(({code}) => code !== codes.missing);
      if (!measured.length) continue;
      const usable = measured.map(({value}) => value).filter((value) => Number.isFinite(value) && (!geometric || value > 0));
      const same = measured.every(({code}) => code === measured[0].code);
      const broken = measured.some(({code}) => code === codes.not_finite);
      cells[at] = same ? measured[0].code : broken ? codes.not_finite : usable.length ? codes.value : codes.zero;
      if (!usable.length) {
        values[at] = low[at] = high[at] = measured[0].value;
        continue;
      }
      const total = usable.reduce((sum, value) => sum + (geometric ? Math.log(value) : value), 0) / usable.length;
      values[at] = geometric ? Math.exp(total) : total;
      const all = measured.map(({value}) => value).filter(Number.isFinite);
      [low[at], high[at]] = [Math.min(...all), Math.max(...all)];
    }
  });
  const rowOf = new Map(layers.map((layer, row) => [layer, row]));
  return Object.assign(Object.create(first), {layers, rowOf, values, low, high, cells, of: layers.length});
}

function codeOf(table, index, codes) {
  if (table.cells) return table.cells[index];
  const value = table.values[index];
  return Number.isFinite(value) ? (value === 0 ? codes.zero : codes.value) : codes.not_finite;
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
