// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {Table} from '../../../lightning_rwc/tensorboard/static/data.js';
import {csv} from '../../../lightning_rwc/tensorboard/static/exports.js';
import {cellText, hasCell} from '../../../lightning_rwc/tensorboard/static/readout.js';

const table = (layers, steps, epochs, values) =>
  new Table({
    layers,
    steps,
    epochs,
    values: Buffer.from(new Float32Array(values).buffer).toString('base64'),
  });
const HERE = table(['a', 'b'], [9, 19], [0, null], [0.5, 0.25, NaN, Infinity]);

test('a cell says its row, its time and its value', () => {
  assert.deepEqual(cellText(HERE, {layer: 'a', column: 0}, 'layer'), ['a', 'epoch 0', 'step 9', '0.5']);
  assert.deepEqual(cellText(HERE, {layer: 'b', column: 1}, 'unit'), ['unit b', 'step 19', 'inf']);
  const gap = table(['a'], [null, 9], [null, 0], [NaN, 1]);
  assert.deepEqual(cellText(gap, {layer: 'a', column: 0}, 'layer'), ['a', 'not measured']);
  const long = table(['x'.repeat(200) + 'y'], [1], [0], [1]);
  const [name] = cellText(long, {layer: long.layers[0], column: 0}, 'layer');
  assert.equal(name, `${'x'.repeat(80)}…${'x'.repeat(79)}y`);
});

test('a cell is there if its row and its time are', () => {
  assert.equal(hasCell(HERE, {layer: 'b', column: 1}), true);
  for (const cell of [null, {layer: 'c', column: 0}, {layer: 'a', column: 2}, {layer: 'a', column: -1}]) {
    assert.equal(hasCell(HERE, cell), false);
  }
});

test('a file of numbers has a row a measurement, and quotes names', () => {
  const quoted = table(['say "a"', 'b'], [9, 19], [0, null], [0.5, 0.25, NaN, Infinity]);
  const expected = '"epoch","step","b","say ""a"""\r\n0,9,NaN,0.5\r\n,19,Infinity,0.25\r\n';
  assert.equal(csv(quoted, ['b', 'say "a"']), expected);
});
