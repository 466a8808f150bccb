// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {APPEARANCE, CODES, difference, inWords, reach} from '../../../lightning_rwc/tensorboard/static/difference.js';
import {byName as table, close} from './tables.js';

const code = (name) => CODES[name];
const words = (one, layer, column) => inWords(one, layer, column, String);

test('ratios of values, and words for what has no ratio', () => {
  const first = table({a: [3, 1, 0, 0, NaN, Infinity, Infinity, 2]});
  const second = table({a: [1, 4, 1, 0, 1, 0, NaN, 2]});
  const found = difference(first, second);
  const names = ['value', 'value', 'zero', 'value', 'not_finite', 'not_finite', 'both_not_finite', 'value'];
  assert.deepEqual([...found.codes], names.map(code));
  assert.deepEqual([...found.values], [3, 0.25, NaN, 1, NaN, NaN, NaN, 1]);
  assert.deepEqual([0, 1, 2, 3, 4, 6, 7].map((column) => words(found, 'a', column)), [
    '×3', '÷4', '0 in one run only', '=', 'nan or inf in one run only', 'nan or inf in both runs', '=',
  ]);
});

test('quantities that can be negative, and shares, are subtracted', () => {
  for (const kind of [{signed: true}, {share: true}]) {
    const found = difference(table({a: [0.5, 0, 0.25]}, kind), table({a: [0.25, 0, 1]}, kind));
    assert.deepEqual([...found.values], [0.25, 0, -0.75]);
    assert.deepEqual([...found.codes], [0, 0, 0]);
    assert.equal(reach(found), 0.75);
    assert.deepEqual([0, 1, 2].map((column) => words(found, 'a', column)), ['+0.25', '0', '-0.75']);
  }
  assert.equal(reach({values: new Float32Array([NaN, 0])}), 1);
});

test('what one run has not measured is missing, not nan', () => {
  const first = table({a: [NaN, 1]}, {codes: [[1, 0]]});
  const found = difference(first, table({a: [1, 2]}, {codes: [[0, 0]]}));
  assert.deepEqual([...found.codes], [code('missing'), code('value')]);
  assert.equal(words(found, 'a', 0), 'not measured in both');
  assert.ok(close(found.values[1], 0.5));
});

test('values per step are compared if the scale is', () => {
  const first = table({a: [1, 1, 0], b: [3, 3, 3]}, {spans: [10, 10, null]});
  const second = table({a: [1, 1, 2], b: [3, 1, 3]}, {spans: [40, 10, 10]});
  [4, 1, NaN, 4, 3, 10].forEach((ratio, cell) => {
    const got = difference(first, second, true).values[cell];
    assert.ok(close(got, ratio) || (Number.isNaN(got) && Number.isNaN(ratio)), `${got} is not ${ratio}`);
  });
  assert.deepEqual([...difference(first, second).values], [1, 1, NaN, 1, 3, 1]);
});

test('cells without a ratio are grey, and say what they are', () => {
  assert.deepEqual(Object.keys(APPEARANCE), Object.keys(CODES).slice(1));
  for (const {fill, ink, loud, words} of Object.values(APPEARANCE)) {
    for (const colour of [fill, ink]) assert.match(colour, /^#(..)\1\1$/);
    assert.equal(loud, false);
    assert.ok(words);
  }
});
