// SPDX-License-Identifier: Apache-2.0
// Tables as the server sends them.
import {Table} from '../../../lightning_rwc/tensorboard/static/data.js';

export const base64 = (values) => Buffer.from(values.buffer).toString('base64');

/** A table of rows; what is not given is as in a short run of two layers and two measurements. */
export function table(rows, known = {}) {
  const columns = rows[0].length;
  const {cells, ...rest} = known;
  return new Table({
    label: 'change (ratio)',
    signed: false,
    share: false,
    layers: rows.map((_, row) => String.fromCharCode(97 + row)),
    steps: Array.from({length: columns}, (_, column) => 10 * column + 9),
    epochs: Array.from({length: columns}, (_, column) => column),
    values: base64(Float32Array.from(rows.flat())),
    ...(cells ? {cells: base64(Uint8Array.from(cells.flat()))} : {}),
    ...rest,
  });
}

/** A table of rows by their names; `codes` are of its cells. */
export const byName = (rows, {codes, ...known} = {}) =>
  table(Object.values(rows), {layers: Object.keys(rows), cells: codes, ...known});

export const close = (got, wanted) => Math.abs(got - wanted) <= 1e-6 * Math.abs(wanted);
