// SPDX-License-Identifier: Apache-2.0
// How two runs differ, cell by cell. Nothing here knows the page.
import {CODES as MEASURED} from './cells.js';

/** The codes of a difference's cells. */
export const CODES = {value: 0, missing: 1, zero: 2, not_finite: 3, both_not_finite: 4};

const NEUTRAL = {fill: '#cfcfcf', ink: '#8f8f8f', loud: false};
/** How cells that have no ratio are drawn: none has a colour of the scale, because none is more or less. */
export const APPEARANCE = {
  missing: {fill: '#ffffff', ink: '#ffffff', pattern: 'none', loud: false, words: 'not measured in both'},
  zero: {...NEUTRAL, pattern: 'dots', words: '0 in one run only'},
  not_finite: {...NEUTRAL, pattern: 'stripes', words: 'nan or inf in one run only'},
  both_not_finite: {...NEUTRAL, pattern: 'cross', words: 'nan or inf in both runs'},
};

function codeOf(here, there, ratio) {
  const finite = Number.isFinite(here) + Number.isFinite(there);
  if (finite < 2) return finite ? CODES.not_finite : CODES.both_not_finite;
  return ratio && here !== there && (here === 0 || there === 0) ? CODES.zero : CODES.value;
}

/**
 * The ratio of the first table to the second, or their difference if the quantity can be negative or is a share.
 *
 * @param first, second tables of the same rows and columns, of `project` in align.js
 * @param perStep whether values are divided by the number of steps over which they reach
 * @returns a table whose `codes` are CODES; two zeros are equal
 */
export function difference(first, second, perStep = false) {
  const ratio = !(first.signed || first.share);
  const values = new Float32Array(first.values.length).fill(NaN);
  const codes = new Uint8Array(values.length);
  const columns = first.steps.length;
  const valueOf = (table, cell) => table.values[cell] / ((perStep && table.spans?.[cell % columns]) || 1);
  values.forEach((_, cell) => {
    const [here, there] = [valueOf(first, cell), valueOf(second, cell)];
    const missing = [first, second].some((table) => table.codes[cell] === MEASURED.missing);
    codes[cell] = missing ? CODES.missing : codeOf(here, there, ratio);
    if (codes[cell] !== CODES.value) return;
    if (ratio) values[cell] = here === there ? 1 : here / there;
    else values[cell] = here - there;
  });
  return Object.assign(Object.create(first), {values, codes, ratio, spans: null});
}

/** The largest difference between finite values, for a symmetric scale; 1 if there is none. */
export function reach({values}) {
  return values.reduce((most, value) => (Math.abs(value) > most ? Math.abs(value) : most), 0) || 1;
}

/** A cell of a difference in words, such as `×3.2`, `÷10` or `0 in one run only`. */
export function inWords(table, layer, column, readable) {
  const at = table.rowOf.get(layer) * table.steps.length + column;
  const code = table.codes[at];
  if (code !== CODES.value) return APPEARANCE[Object.keys(CODES)[code]].words;
  const value = table.values[at];
  if (!table.ratio) return `${value > 0 ? '+' : ''}${readable(value)}`;
  if (Math.abs(Math.log(value)) < 0.005) return '=';
  return value > 1 ? `×${readable(Number(value.toPrecision(3)))}` : `÷${readable(Number((1 / value).toPrecision(3)))}`;
}
