// SPDX-License-Identifier: Apache-2.0
// Tables as the page has them.
import {guess} from '../../../lightning_rwc/tensorboard/static/cells.js';

/** A table whose `rows` are {layer: values}, with a measurement at each of `steps`. */
export function table(rows, {steps, epochs, codes, signed = false, share = false, ...more} = {}) {
  const layers = Object.keys(rows);
  const values = Float32Array.from(Object.values(rows).flat());
  const count = layers.length ? values.length / layers.length : 0;
  return {
    layers,
    values,
    steps: steps ?? Array.from({length: count}, (_, i) => 10 * i + 9),
    epochs: epochs ?? Array.from({length: count}, (_, i) => i),
    codes: codes ? Uint8Array.from(codes.flat()) : guess(values, signed || share),
    rowOf: new Map(layers.map((layer, row) => [layer, row])),
    signed,
    share,
    ...more,
  };
}

export const close = (got, wanted) => Math.abs(got - wanted) <= 1e-6 * Math.abs(wanted);
