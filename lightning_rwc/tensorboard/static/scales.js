// SPDX-License-Identifier: Apache-2.0
// From a value to a place between the ends of a scale, and to a colour.
import {channels, packed} from './cells.js';

const stops = (text) => text.split(' ').map(channels);
// Matplotlib's viridis, for values only, and PuOr, for signed values. Both also work for colour-blind people.
const VIRIDIS = stops(
  '#440154 #48186a #472d7b #424086 #3b528b #33638d #2c728e #26828e #21918c #1fa088 #28ae80 #3fbc73 #5ec962 #84d44b ' +
    '#addc30 #d8e219 #fde725',
);
const PUOR = stops(
  '#7f3b08 #aa5306 #d0730f #ef9e3c #fdc57f #fde4c0 #f6f6f7 #dddfed #bfbbda #988dbe #70589f #4d207d #2d004b',
);
const MOST = 200_000;

/** The choices of colour for a table: pairs of value and text. */
export const colourChoices = ({scales, linear}) => [
  ...(scales && !linear ? [['step', 'per step'], ['measurement', 'per measurement']] : []),
  ['auto', linear ? 'linear' : 'auto'],
  ...(linear ? [] : [['linear', 'auto, linear']]),
];

/** The choice that counts: the user's where it exists, otherwise the server's. */
export function chosenColour(table, wanted) {
  const there = colourChoices(table).map(([value]) => value);
  return there.includes(wanted) ? wanted : (table.linear ? 'auto' : table.scales?.default) ?? 'auto';
}

/**
 * The scale of colours for `layers` of `tables`, which are of one quantity.
 *
 * @returns {low, high, logarithmic, perStep, ticks, share, stops, title}; `share` tells where between the ends a value
 *   lies that reaches over `span` steps
 */
export function colourScale(tables, layers, wanted) {
  const [table] = tables;
  const {label, signed, share: isShare, scales} = table;
  const choice = chosenColour(table, wanted);
  if (isShare) return linear(0, 1, VIRIDIS, label);
  if (signed) {
    const reach = Math.max(...limits(tables, layers).map(Math.abs)) || 1;
    return linear(-reach, reach, PUOR, label);
  }
  if (choice === 'linear') return linear(...limits(tables, layers), VIRIDIS, label);
  if (choice === 'auto') {
    const [low, high] = percentiles(tables, layers);
    return logarithmic(low, high, powers(low, high).map((value) => [value, '']), label);
  }
  const {ticks} = scales[choice];
  const perStep = choice === 'step';
  const title = perStep ? label.replace(/( \([^()]*\))?$/, ' per step$1') : label;
  return logarithmic(ticks[0][0], ticks.at(-1)[0], ticks, title, perStep);
}

export function linear(low, high, colours, title) {
  const share = (value) => (value - low) / (high - low || 1);
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => [low + part * (high - low), '']);
  return {low, high, logarithmic: false, perStep: false, ticks, share, stops: colours, title};
}

/** The fixed scale of ratios; `ticks` are of appearance.json. */
export const ratios = (ticks, title) => ({
  ...logarithmic(ticks[0][0], ticks.at(-1)[0], ticks, title),
  stops: PUOR,
  onlyWords: true,
});

/** A scale for positive and negative values. */
export const diverging = (reach, title) => linear(-reach, reach, PUOR, title);

function logarithmic(low, high, ticks, title, perStep = false) {
  const [start, size] = [Math.log(low), Math.log(high / low) || 1];
  const share = (value, span) => (Math.log(perStep ? value / (span || 1) : value) - start) / size;
  return {low, high, logarithmic: true, perStep, ticks, share, stops: VIRIDIS, title};
}

/** Red, green and blue at a share of a scale. What lies beyond an end has the colour of the end. */
export function mix(colours, share) {
  const position = Math.min(Math.max(share, 0), 1) * (colours.length - 1);
  const left = Math.min(Math.floor(position), colours.length - 2);
  const [from, to] = [colours[left], colours[left + 1]];
  return [0, 1, 2].map((i) => Math.round(from[i] + (position - left) * (to[i] - from[i])));
}

/** The colours of a scale as pixels, from its lower to its upper end. */
export const palette = ({stops: colours}, count = 512) =>
  Uint32Array.from({length: count}, (_, index) => packed(mix(colours, index / (count - 1))));

/** Pixels for the values of `layers`, row by row. Only cells that are values have a meaning. */
export function paint(table, layers, scale) {
  const [colours, columns] = [palette(scale), table.steps.length];
  const top = colours.length - 1;
  const painted = new Uint32Array(layers.length * columns);
  let cell = 0;
  for (const layer of layers) {
    const values = table.row(table.rowOf.get(layer));
    for (let column = 0; column < columns; column++, cell++) {
      const share = scale.share(values[column], table.spans?.[column]);
      painted[cell] = colours[Math.round(Math.min(Math.max(share, 0), 1) * top)];
    }
  }
  return painted;
}

function numbers(tables, layers, accept) {
  const found = [];
  for (const table of tables) {
    const rows = layers.filter((layer) => table.rowOf.has(layer));
    // Evenly spaced ones of a large table tell enough.
    const every = Math.ceil((rows.length * table.steps.length) / MOST);
    let index = 0;
    for (const layer of rows) {
      for (const value of table.row(table.rowOf.get(layer))) {
        if (index++ % every === 0 && Number.isFinite(value) && accept(value)) found.push(value);
      }
    }
  }
  return Float64Array.from(found).sort();
}

function limits(tables, layers) {
  const found = numbers(tables, layers, () => true);
  return found.length ? [found[0], found.at(-1)] : [0, 1];
}

/** The 2nd and 98th percentile of what is above zero, so that two odd rows do not flatten fifty others. */
function percentiles(tables, layers) {
  const found = numbers(tables, layers, (value) => value > 0);
  if (!found.length) return [1e-6, 1];
  const at = (share) => {
    const [index, rest] = [Math.floor(share * (found.length - 1)), (share * (found.length - 1)) % 1];
    return found[index] + rest * ((found[index + 1] ?? found[index]) - found[index]);
  };
  const [low, high] = [at(0.02), at(0.98)];
  return low < high ? [low, high] : [low / 3, high * 3];
}

function powers(low, high) {
  const steps = high / low > 1000 ? [1] : [1, 2, 5];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const step of steps) found.push(step * 10 ** power);
  }
  const inside = found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  return inside.length ? inside : [low, high];
}
