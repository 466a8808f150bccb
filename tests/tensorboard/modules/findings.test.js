// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {
  allFindings,
  columnOf,
  inWords,
  listing,
  marksOf,
  rowsOf,
} from '../../../lightning_rwc/tensorboard/static/findings.js';
import {fold} from '../../../lightning_rwc/tensorboard/static/rows.js';
import {table} from './tables.js';

const FOUND = {kind: 'no_gradient', layers: ['b', 'c', 'gone'], epoch: 1, step: 15, message: 'm'};

test('a finding marks its rows, and the first measurement that is not before it', () => {
  const one = table([[1, 1, 1], [1, 1, 1], [1, 1, 1]]);
  assert.deepEqual(rowsOf(FOUND, one), ['b', 'c']);
  assert.equal(columnOf(FOUND, one.steps), 1);
  assert.equal(columnOf({step: 30}, one.steps), -1);
  const marks = marksOf([FOUND, {...FOUND, layers: ['a'], step: 99}], one);
  assert.deepEqual([[...marks.rows], marks.columns], [['b', 'c', 'a'], [1]]);
});

test('in folded rows, a finding is about the blocks of its layers', () => {
  const folded = fold(table([[1], [1], [1]], {blocks: ['x', 'y', 'y']}));
  assert.deepEqual(rowsOf(FOUND, folded), ['y']);
});

test('rows that are lost are found, unless a finding says so', () => {
  const values = [[1, NaN, NaN], [1, 2, 3], [1, 2, NaN]];
  const cells = values.map((row) => row.map((value) => (Number.isNaN(value) ? 2 : 0)));
  const one = table(values, {cells, findings: [FOUND]});
  const [first, derived] = allFindings(one);
  assert.equal(first, FOUND);
  assert.deepEqual([derived.kind, derived.layers, derived.step, derived.epoch], ['non_finite', ['a', 'c'], 19, 1]);
  const told = [{...FOUND, kind: 'non_finite'}];
  assert.equal(allFindings(table(values, {cells, findings: told})).length, 1);
  assert.equal(allFindings(table(values, {cells})), null);
  const unlooked = table(values, {cells, scales: {default: 'step'}});
  assert.deepEqual(allFindings(unlooked).map(({layers}) => layers), [['a', 'c']]);
  assert.deepEqual(allFindings(table([[1]], {findings: []})), []);
});

test('a finding is named in words', () => {
  assert.equal(inWords('no_gradient'), 'no gradient');
  assert.equal(listing(['a', 'b', 'c', 'd']), 'a, b, c, d');
  assert.equal(listing(['a', 'b', 'c', 'd', 'e']), 'a, b, c and 2 more');
  assert.equal(listing([]), 'all layers');
});
