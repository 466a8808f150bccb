// SPDX-License-Identifier: Apache-2.0
// Tables as the page has them.

/** A table whose `rows` are {layer: values}, with a measurement at each of `steps`. */
export function table(rows, {steps, epochs, cells, ...more} = {}) {
  const layers = Object.keys(rows);
  const values = Float32Array.from(Object.values(rows).flat());
  const count = layers.length ? values.length / layers.length : 0;
  const own = {
    layers,
    values,
    steps: steps ?? Array.from({length: count}, (_, i) => 10 * i + 9),
    epochs: epochs ?? Array.from({length: count}, (_, i) => i),
    rowOf: new Map(layers.map((layer, row) => [layer, row])),
    signed: false,
    share: false,
    ...more,
  };
  return cells ? {...own, cells: Uint8Array.from(cells.flat())} : own;
}

export const close = (got, wanted) => Math.abs(got - wanted) <= 1e-6 * Math.abs(wanted);
