// SPDX-License-Identifier: Apache-2.0
// How two runs differ, cell by cell. Nothing here knows the page.

/** The codes of cells that have no ratio. Each has its words, and none has a colour of the scale. */
export const SPECIAL = {
  value: {code: 0, words: 'a value in both'},
  missing: {code: 1, words: 'not measured in both'},
  zero: {code: 2, words: '0 in one run only'},
  both_zero: {code: 3, words: '0 in both runs'},
  not_finite: {code: 4, words: 'nan or inf in one run only'},
  both_not_finite: {code: 5, words: 'nan or inf in both runs'},
};

/** The code of one cell; `here` and `there` are finite and positive where it is `value`. */
export function kindOf(here, there, ratio) {
  if (here === undefined || there === undefined) return SPECIAL.missing.code;
  const finite = Number.isFinite(here) + Number.isFinite(there);
  if (finite < 2) return (finite ? SPECIAL.not_finite : SPECIAL.both_not_finite).code;
  if (!ratio || (here !== 0 && there !== 0)) return SPECIAL.value.code;
  return (here === there ? SPECIAL.both_zero : SPECIAL.zero).code;
}

/**
 * The ratio of the first table to the second, or their difference if the quantity can be negative or is a share.
 *
 * @param first, second tables over the same columns, of `project` in align.js
 * @returns a table of the layers of both, whose `cells` are codes of SPECIAL
 */
export function difference(first, second) {
  const ratio = !(first.signed || first.share);
  const layers = first.layers.filter((layer) => second.rowOf.has(layer));
  const columns = first.steps.length;
  const values = new Float32Array(layers.length * columns).fill(NaN);
  const cells = new Uint8Array(values.length);
  const measured = (table, index) => (table.cells?.[index] === SPECIAL.missing.code ? undefined : table.values[index]);
  layers.forEach((layer, row) => {
    const [here, there] = [first.rowOf.get(layer) * columns, second.rowOf.get(layer) * columns];
    for (let column = 0; column < columns; column++) {
      const [a, b] = [measured(first, here + column), measured(second, there + column)];
      const at = row * columns + column;
      cells[at] = kindOf(a, b, ratio);
      if (cells[at] === SPECIAL.value.code) values[at] = ratio ? a / b : a - b;
      if (cells[at] === SPECIAL.both_zero.code) values[at] = 1;
    }
  });
  const rowOf = new Map(layers.map((layer, row) => [layer, row]));
  return Object.assign(Object.create(first), {layers, rowOf, values, cells, ratio, of: layers.length});
}

/** The largest difference between finite values, for a symmetric scale; 1 if there is none. */
export function reach({values}) {
  return values.reduce((most, value) => (Math.abs(value) > most ? Math.abs(value) : most), 0) || 1;
}

/** A cell of a difference in words, such as `×3.2`, `÷10` or `0 in one run only`. */
export function inWords(table, layer, column, readable) {
  const at = table.rowOf.get(layer) * table.steps.length + column;
  const code = table.cells[at];
  if (code !== SPECIAL.value.code && code !== SPECIAL.both_zero.code) {
    return Object.values(SPECIAL).find((one) => one.code === code).words;
  }
  const value = table.values[at];
  if (!table.ratio) return `${value > 0 ? '+' : ''}${readable(value)}`;
  if (Math.abs(Math.log(value)) < 0.005) return '=';
  return value > 1 ? `×${readable(Number(value.toPrecision(3)))}` : `÷${readable(Number((1 / value).toPrecision(3)))}`;
}
