// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {raster} from '../../../lightning_rwc/tensorboard/static/raster.js';

// Codes: 0 a value, 1 quiet without a pattern, 2 loud with lines.
const lines = [1, 0, 0, 0, 0, 0].map((mark) => Array(6).fill(Boolean(mark)));
const LOOKS = [
  undefined,
  {fill: 100, ink: 101, tile: undefined, loud: false},
  {fill: 200, ink: 201, tile: lines, loud: true},
];
const draw = (rows, columns, codes, span, width, height, ratio = 1) => {
  const colours = Uint32Array.from(codes, (_, index) => index + 1);
  const whole = {left: 0, right: columns, top: 0, bottom: rows};
  const cells = {columns, codes: Uint8Array.from(codes), colours};
  const image = raster(cells, {...whole, ...span}, {width, height, ratio}, LOOKS);
  return Array.from({length: height}, (_, y) => [...image.subarray(y * width, (y + 1) * width)]);
};

test('each pixel has the colour of its cell', () => {
  assert.deepEqual(draw(2, 2, [0, 0, 0, 1], {}, 4, 2), [
    [1, 1, 2, 2],
    [3, 3, 100, 100],
  ]);
});

test('only the visible part is drawn', () => {
  assert.deepEqual(draw(2, 4, [0, 0, 0, 0, 0, 0, 0, 0], {left: 1, right: 3, top: 1}, 2, 1), [[6, 7]]);
  assert.deepEqual(draw(0, 2, [], {}, 2, 1), [[0, 0]]);
});

test('a pattern keeps its size, and grows with the pixels of the screen', () => {
  const ofColumn = (image) => image.map((line) => line[0]);
  assert.deepEqual(ofColumn(draw(1, 1, [2], {}, 6, 8)), [201, 200, 200, 200, 200, 200, 201, 200]);
  assert.deepEqual(ofColumn(draw(1, 1, [2], {}, 6, 8, 2)), [201, 201, 200, 200, 200, 200, 200, 200]);
});

test('one loud row among thousands is seen, a quiet one need not be', () => {
  const codes = Array(3000).fill(0);
  codes[1500] = 2;
  const image = draw(3000, 1, codes, {}, 4, 30);
  const seen = image.filter((line) => line.some((pixel) => pixel === 200 || pixel === 201));
  assert.equal(seen.length, 3);
  const wide = draw(1, 3000, codes, {}, 30, 4);
  assert.equal(wide[1].filter((pixel) => pixel === 200).length, 3);
});
