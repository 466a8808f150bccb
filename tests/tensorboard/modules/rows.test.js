// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {arrange, blockStarts, expression, fit, fold, foldable} from '../../../lightning_rwc/tensorboard/static/rows.js';
import {table} from './tables.js';

test('rows are sorted by depth, by name with its numbers, and by their last number', () => {
  const one = table([[1, 2], [3, NaN], [9, 1]], {layers: ['l.10', 'l.9', 'a']});
  assert.deepEqual(arrange(one, {sort: 'depth', filter: ''}), ['l.10', 'l.9', 'a']);
  assert.deepEqual(arrange(one, {sort: 'name', filter: ''}), ['a', 'l.9', 'l.10']);
  assert.deepEqual(arrange(one, {sort: 'value', filter: ''}), ['l.9', 'l.10', 'a']);
  assert.deepEqual(arrange(one, {sort: 'depth', filter: '^L\\.'}), ['l.10', 'l.9']);
  assert.equal(expression('('), null);
});

test('a long name keeps its beginning and, with twice the room, its end', () => {
  const width = (text) => [...text].length;
  assert.equal(fit('layers.0.q', 10, width), 'layers.0.q');
  assert.equal(fit('encoder.layers.11.attention.out_proj', 16, width), 'encod….out_proj'.replace('….', '…n.'));
  assert.ok(width(fit('x'.repeat(10_000), 30, width)) <= 30);
  assert.equal(fit('abc', 0, width), '…c');
});

test('a block begins where its name changes, in the order that is shown', () => {
  const one = table([[1], [1], [1], [1]], {blocks: ['x', 'x', 'y', 'z']});
  assert.deepEqual(blockStarts(['a', 'b', 'c', 'd'], (layer) => one.blockOf(layer)), [2, 3]);
  assert.deepEqual(blockStarts(['c', 'a'], (layer) => one.blockOf(layer)), [1]);
  assert.deepEqual(blockStarts([], () => null), []);
  assert.equal(foldable(one), false);
  assert.equal(foldable(table([[1]])), false);
});

test('a folded row is the median of its layers, and as bad as the worst of them', () => {
  const values = [[1, 0, 4], [8, 0, NaN], [2, 0, 5], [0, 3, 7]];
  const cells = [[0, 5, 0], [0, 5, 2], [0, 4, 0], [6, 0, 0]];
  const one = table(values, {cells, blocks: ['m.x', 'm.x', 'm.x', 'm.y'], spans: [10, 10, 10]});
  assert.equal(foldable(one), true);
  const folded = fold(one);
  assert.deepEqual(folded.layers, ['m.x', 'm.y']);
  assert.deepEqual(folded.short, ['x', 'y']);
  assert.deepEqual([...folded.codes], [0, 5, 2, 6, 0, 0]);
  assert.deepEqual([...folded.values], [2, 0, NaN, 0, 3, 7]);
  assert.equal(folded.memberOf.get('c'), 'm.x');
  assert.deepEqual(folded.spans, [10, 10, 10]);
  assert.equal(folded.shapes['m.x'], 'median of 3 layers');
});
