// SPDX-License-Identifier: Apache-2.0
// How two runs differ, cell by cell. Nothing here knows the page.
import {CODES} from './cells.js';

/** The codes of cells that have no ratio. Each has its words, and none has a colour of the scale. */
export const SPECIAL = {
  value: {code: 0, words: 'a value in both'},
  missing: {code: 1, words: 'not measured in both'},
  zero: {code: 2, words: '0 in one run only'},
  both_zero: {code: 3, words: '0 in both runs'},
  not_finite: {code: 4, words: 'nan or inf in one run only'},
  both_not_finite: {code: 5, words: 'nan or inf in both runs'},
};

function kindOf(here, there, ratio) {
  const finite = Number.isFinite(here) + Number.isFinite(there);
  if (finite < 2) return finite ? SPECIAL.not_finite : SPECIAL.both_not_finite;
  if (!ratio || (here !== 0 && there !== 0)) return SPECIAL.value;
  return here === there ? SPECIAL.both_zero : SPECIAL.zero;
}

/**
 * The ratio of the first table to the second, or their difference if the quantity can be negative or is a share.
 *
 * @param first, second tables of the same rows and columns, of `project` in align.js
 * @param perStep whether values are divided by the number of steps over which they reach
 * @returns a table whose `codes` are of SPECIAL
 */
export function difference(first, second, perStep = false) {
  const ratio = !(first.signed || first.share);
  const values = new Float32Array(first.values.length).fill(NaN);
  const codes = new Uint8Array(values.length);
  const columns = first.steps.length;
  const valueOf = (table, cell) => table.values[cell] / ((perStep && table.spans?.[cell % columns]) || 1);
  values.forEach((_, cell) => {
    const [here, there] = [valueOf(first, cell), valueOf(second, cell)];
    const missing = [first, second].some((table) => table.codes[cell] === CODES.missing);
    const kind = missing ? SPECIAL.missing : kindOf(here, there, ratio);
    codes[cell] = kind.code;
    if (kind === SPECIAL.value) values[cell] = ratio ? here / there : here - there;
    if (kind === SPECIAL.both_zero) values[cell] = 1;
  });
  return Object.assign(Object.create(first), {values, codes, ratio});
}

/** The largest difference between finite values, for a symmetric scale; 1 if there is none. */
export function reach({values}) {
  return values.reduce((most, value) => (Math.abs(value) > most ? Math.abs(value) : most), 0) || 1;
}

/** A cell of a difference in words, such as `×3.2`, `÷10` or `0 in one run only`. */
export function inWords(table, layer, column, readable) {
  const at = table.rowOf.get(layer) * table.steps.length + column;
  const code = table.codes[at];
  if (code !== SPECIAL.value.code && code !== SPECIAL.both_zero.code) {
    return Object.values(SPECIAL).find((one) => one.code === code).words;
  }
  const value = table.values[at];
  if (!table.ratio) return `${value > 0 ? '+' : ''}${readable(value)}`;
  if (Math.abs(Math.log(value)) < 0.005) return '=';
  return value > 1 ? `×${readable(Number(value.toPrecision(3)))}` : `÷${readable(Number((1 / value).toPrecision(3)))}`;
}
