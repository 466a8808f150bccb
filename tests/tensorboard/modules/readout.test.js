// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {csv} from '../../../lightning_rwc/tensorboard/static/exports.js';
import {cellText, hasCell} from '../../../lightning_rwc/tensorboard/static/readout.js';
import {table} from './tables.js';

const HERE = table([[0.5, 0.25], [NaN, Infinity]], {epochs: [0, null]});

test('a cell says its row, its time and its value', () => {
  assert.deepEqual(cellText(HERE, {layer: 'a', column: 0}, {kind: 'layer'}), ['a', 'epoch 0', 'step 9', '0.5']);
  assert.deepEqual(cellText(HERE, {layer: 'b', column: 1}, {kind: 'unit'}), ['unit b', 'step 19', 'inf']);
  const gap = table([[NaN, 1]], {steps: [null, 9], epochs: [null, 0]});
  assert.deepEqual(cellText(gap, {layer: 'a', column: 0}, {kind: 'layer'}), ['a', 'not measured']);
  const long = table([[1]], {layers: ['x'.repeat(200) + 'y']});
  const [name] = cellText(long, {layer: long.layers[0], column: 0}, {kind: 'layer'});
  assert.equal(name, `${'x'.repeat(80)}…${'x'.repeat(79)}y`);
});

test('a cell says its shape, what kind of cell it is, and its value per step', () => {
  const known = {spans: [10, 5], shapes: {b: 'Linear 2×3'}, cells: [[0, 0], [5, 2]]};
  const told = table([[0.5, 0.25], [0, NaN]], known);
  const shape = {kind: 'layer', perStep: true, wordsOf: (code) => ({5: 'frozen', 2: 'nan: not finite'})[code] ?? ''};
  const said = (layer, column) => cellText(told, {layer, column}, shape);
  assert.deepEqual(said('a', 1), ['a', 'epoch 1', 'step 19', '0.25', '0.05 per step']);
  assert.deepEqual(said('b', 0), ['b', 'Linear 2×3', 'epoch 0', 'step 9', '0', 'frozen']);
  assert.deepEqual(said('b', 1).slice(3), ['step 19', 'nan: not finite']);
});

test('a cell is there if its row and its time are', () => {
  assert.equal(hasCell(HERE, {layer: 'b', column: 1}), true);
  for (const cell of [null, {layer: 'c', column: 0}, {layer: 'a', column: 2}, {layer: 'a', column: -1}]) {
    assert.equal(hasCell(HERE, cell), false);
  }
});

test('a file of numbers has a row a measurement, and quotes names', () => {
  const quoted = table([[0.5, 0.25], [NaN, Infinity]], {layers: ['say "a"', 'b'], epochs: [0, null]});
  const expected = '"epoch","step","b","say ""a"""\r\n0,9,NaN,0.5\r\n,19,Infinity,0.25\r\n';
  assert.equal(csv(quoted, ['b', 'say "a"']), expected);
});

test('a name that begins like a formula is none in a spreadsheet', () => {
  const layers = ['=1+1', '+a', '-"b"', '@c', 'd=e'];
  const [head] = csv(table(layers.map(() => [1]), {layers}), layers).split('\r\n');
  assert.equal(head, `"epoch","step","'=1+1","'+a","'-""b""","'@c","d=e"`);
});

test('a layer may have the name of what every object has', () => {
  const odd = table([[0.5]], {layers: ['constructor']});
  const said = cellText(odd, {layer: 'constructor', column: 0}, {kind: 'layer'});
  assert.deepEqual(said, ['constructor', 'epoch 0', 'step 9', '0.5']);
});
