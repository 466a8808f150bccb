// SPDX-License-Identifier: Apache-2.0
// Which rows are shown, in which order, under which names.
import {CODES} from './cells.js';

/** The expression that a user types, or null if it is none (yet). */
export function expression(filter) {
  try {
    return new RegExp(filter.slice(0, 200), 'i');
  } catch {
    return null;
  }
}

/** The rows of `table` to show, from top to bottom. */
export function arrange(table, {sort, filter}) {
  const matches = expression(filter);
  const layers = table.layers.filter((layer) => matches.test(layer.slice(0, 1000)));
  if (sort === 'name') layers.sort(new Intl.Collator('en', {numeric: true}).compare);
  if (sort === 'value') {
    const last = (layer) => table.row(table.rowOf.get(layer)).findLast((number) => !Number.isNaN(number));
    const values = new Map(layers.map((layer) => [layer, last(layer) ?? -Infinity]));
    layers.sort((a, b) => values.get(b) - values.get(a) || 0);
  }
  return layers;
}

/** A name in so much room: its beginning and, with twice as much room, its end. `width` measures a text. */
export function fit(name, room, width) {
  if (name.length <= 200 && width(name) <= room) return name;
  const letters = [...name.slice(0, 100), ...(name.length > 100 ? name.slice(-100) : '')];
  const cut = (kept) => {
    const end = Math.ceil((2 * kept) / 3);
    return `${letters.slice(0, kept - end).join('')}…${letters.slice(letters.length - end).join('')}`;
  };
  let [low, high] = [1, letters.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (width(cut(middle)) <= room) low = middle;
    else high = middle - 1;
  }
  return cut(low);
}

/** The numbers of shown rows before which a new block begins. */
export function blockStarts(layers, blockOf) {
  const starts = [];
  for (let row = 1; row < layers.length; row++) {
    if (blockOf(layers[row]) !== blockOf(layers[row - 1])) starts.push(row);
  }
  return starts;
}

/** Whether folding makes half as many rows, or fewer. */
export const foldable = ({blocks, layers}) => Boolean(blocks) && 2 * new Set(blocks).size <= layers.length;

/**
 * A table with one row for each block: the median of its layers.
 *
 * A cell of which any layer is not finite is not finite. A cell in which no layer has a value is what most layers are.
 */
export function fold(table) {
  const members = new Map();
  table.blocks.forEach((block, row) => members.set(block, [...(members.get(block) ?? []), row]));
  const [layers, columns] = [[...members.keys()], table.steps.length];
  const values = new Float32Array(layers.length * columns);
  const codes = new Uint8Array(values.length);
  layers.forEach((block, at) => {
    const rows = members.get(block);
    for (let column = 0; column < columns; column++) {
      const cells = rows.map((row) => row * columns + column);
      const cell = at * columns + column;
      const measured = cells.filter((one) => table.codes[one] === CODES.value);
      const bad = cells.find((one) => table.codes[one] === CODES.not_finite);
      const special = bad ?? (measured.length ? undefined : cells[mostCommon(cells.map((one) => table.codes[one]))]);
      codes[cell] = special === undefined ? CODES.value : table.codes[special];
      values[cell] = special === undefined ? median(measured.map((one) => table.values[one])) : table.values[special];
    }
  });
  const shapes = Object.fromEntries(layers.map((block) => [block, `median of ${members.get(block).length} layers`]));
  const start = sharedStart(layers).length;
  const short = layers.map((block) => block.slice(start));
  const memberOf = new Map(table.layers.map((layer, row) => [layer, table.blocks[row]]));
  return table.derive({layers, short, values, codes, shapes, memberOf, blocks: null, of: layers.length});
}

/** The modules that all names begin with, with the dot after them. */
function sharedStart(names) {
  const parts = names.map((name) => name.split('.'));
  // Each name keeps its last part.
  const most = names.length < 2 ? 0 : Math.min(...parts.map((one) => one.length - 1));
  let count = 0;
  while (count < most && parts.every((one) => one[count] === parts[0][count])) count++;
  return parts[0].slice(0, count).map((part) => `${part}.`).join('');
}

function mostCommon(codes) {
  const counts = new Map();
  for (const code of codes) counts.set(code, (counts.get(code) ?? 0) + 1);
  const most = Math.max(...counts.values());
  return codes.findIndex((code) => counts.get(code) === most);
}

function median(values) {
  const sorted = values.sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
