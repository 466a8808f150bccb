// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {
  chosenColour,
  colourChoices,
  colourScale,
  paint,
  palette,
} from '../../../lightning_rwc/tensorboard/static/scales.js';
import {table} from './tables.js';

const ticks = (low, high) => ({ticks: [[low, 'still'], [high, 'fast']]});
const SCALES = {default: 'step', step: ticks(1e-4, 1), measurement: ticks(1e-2, 100)};
const ROWS = [[1e-2, 0.5], [1, 2]];

test('the scale of the server counts until the user chooses another', () => {
  const one = table(ROWS, {scales: SCALES, spans: [10, 10]});
  assert.deepEqual(colourChoices(one).map(([value]) => value), ['step', 'measurement', 'auto', 'linear']);
  assert.equal(chosenColour(one, ''), 'step');
  assert.equal(chosenColour(one, 'auto'), 'auto');
  assert.equal(chosenColour(one, 'log'), 'step');
  assert.equal(chosenColour(table(ROWS), 'step'), 'auto');
});

test('per step, a value has the colour of its part of one step', () => {
  const scale = colourScale([table(ROWS, {scales: SCALES, spans: [10, 100]})], ['a', 'b'], '');
  assert.equal(scale.title, 'change per step (ratio)');
  assert.ok(Math.abs(scale.share(0.1, 10) - 0.5) < 1e-9); // 0.01, in the middle of 1e-4 and 1
  assert.ok(Math.abs(scale.share(1, 100) - 0.5) < 1e-9);
  assert.ok(Math.abs(scale.share(100, 100) - 1) < 1e-9);
});

test('per measurement, how many steps it has plays no part', () => {
  const scale = colourScale([table(ROWS, {scales: SCALES, spans: [10, 100]})], ['a', 'b'], 'measurement');
  assert.equal(scale.title, 'change (ratio)');
  assert.ok(Math.abs(scale.share(1, 10) - 0.5) < 1e-9);
});

test('two odd cells do not flatten the others on the auto scale', () => {
  const values = Array.from({length: 101}, (_, index) => 1 + index); // 1 to 101
  values[0] = 1e-30;
  values[100] = 1e30;
  const scale = colourScale([table([values])], ['a'], '');
  // The 2nd and the 98th percentile of 101 numbers are the third and the 99th.
  assert.deepEqual([scale.low, scale.high], [3, 99]);
  assert.deepEqual(colourScale([table([[0, NaN]])], ['a'], '').low, 1e-6);
});

test('shares go from 0 to 1, and signed values as far down as up', () => {
  const share = colourScale([table([[0.2, 0.4]], {share: true})], ['a'], '');
  assert.deepEqual([share.low, share.high, share.share(0.25)], [0, 1, 0.25]);
  const signed = colourScale([table([[-3, 1]], {signed: true})], ['a'], '');
  assert.deepEqual([signed.low, signed.high, signed.share(0)], [-3, 3, 0.5]);
});

test('cells are painted in the colours of the scale, and beyond its ends in those of the ends', () => {
  const one = table([[1e-9, 1e9, 0.1]], {scales: SCALES, spans: [1, 1, 10]});
  const scale = colourScale([one], ['a'], '');
  const painted = paint(one, ['a'], scale);
  // Viridis: #440154, #fde725, and #21918c in the middle. The lowest byte of a pixel is red.
  assert.equal(painted[0], 0xff540144);
  assert.equal(painted[1], 0xff25e7fd);
  const middle = [0, 8, 16].map((bits) => (painted[2] >> bits) & 255);
  [0x21, 0x91, 0x8c].forEach((channel, index) => assert.ok(Math.abs(middle[index] - channel) <= 1));
  assert.equal(palette(scale, 3)[0], 0xff540144);
});
