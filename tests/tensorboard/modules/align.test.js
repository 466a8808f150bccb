// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {
  Aligned,
  align,
  chosen,
  join,
  matching,
  positions,
  possible,
  project,
} from '../../../lightning_rwc/tensorboard/static/align.js';
import {byName as table} from './tables.js';

const ten = table({a: [1, 2, 3]}, {steps: [9, 19, 29], epochs: [0, 1, 2]});
const quarter = table({a: [4, 5, 6, 7]}, {steps: [24, 49, 74, 99], epochs: [0, 1, 2, 3]});
const often = table({a: [1, 2, 3]}, {steps: [9, 19, 29], epochs: [0, 0, 1]});

test('epoch is the axis where each epoch has one measurement in all runs, else step', () => {
  assert.equal(chosen([ten, quarter], ''), 'epoch');
  assert.equal(chosen([ten, often], ''), 'step');
  assert.equal(chosen([ten, often], 'epoch'), 'step');
  assert.equal(chosen([ten, often], 'share'), 'share');
  assert.deepEqual(possible([ten]), ['epoch', 'step', 'share']);
  assert.deepEqual(possible([table({a: [1]}, {epochs: [null]})]), ['step', 'share']);
});

test('by epoch, an epoch is an epoch whatever its length', () => {
  const {x, at, name} = align([ten, quarter], 'epoch');
  assert.deepEqual(x, [0, 1, 2, 3]);
  assert.deepEqual(at.map((one) => [...one]), [[0, 1, 2, -1], [0, 1, 2, 3]]);
  assert.equal(name, 'epoch');
});

test('by step, each column shows the nearest measurement within half a spacing', () => {
  // 9, 19, 29 and 24, 49, 74, 99: the greatest common divisor of the distances is 5.
  const {x, at, name} = align([ten, quarter], 'step');
  assert.deepEqual(x, [9, 14, 19, 24, 29, 34, 39, 44, 49, 54, 59, 64, 69, 74, 79, 84, 89, 94, 99]);
  // The first run reaches from 4 up to 34, the second from 11.5 up to 111.5; 14 and 24 are halfway: the later one.
  assert.deepEqual([...at[0]], [0, 1, 1, 2, 2, ...Array(14).fill(-1)]);
  assert.deepEqual([...at[1]], [-1, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3]);
  assert.equal(name, 'step');
});

test('by share, first and last measurements meet', () => {
  assert.deepEqual(positions(quarter, 'share'), [0, 100 / 3, 200 / 3, 100]);
  const {x, at, name} = align([ten, quarter], 'share');
  assert.equal(x.length, 101);
  assert.deepEqual([x[0], x[7], x[100]], [0, 7, 100]);
  // Three measurements at 0, 50 and 100 change at 25 and 75; four at 0, 33.3, 66.7 and 100 at 16.7, 50 and 83.3.
  assert.deepEqual([0, 24, 25, 74, 75, 100].map((place) => at[0][place]), [0, 0, 1, 1, 2, 2]);
  assert.deepEqual([0, 16, 17, 49, 50, 83, 84, 100].map((place) => at[1][place]), [0, 0, 1, 1, 2, 2, 3, 3]);
  assert.equal(name, 'share of the run (%)');
});

test('a run with one measurement, and one without any', () => {
  const one = table({a: [1]}, {steps: [19], epochs: [1]});
  const none = table({a: []}, {steps: [], epochs: []});
  assert.deepEqual([...align([ten, one], 'step').at[1]], [-1, 0, -1]);
  assert.deepEqual([...align([ten, none], 'epoch').at[1]], [-1, -1, -1]);
  assert.deepEqual(align([none], 'step').x, []);
  assert.equal(align([one], 'share').at[0].at(-1), 0);
});

test('there are never more columns than a canvas should have', () => {
  const long = table({a: [1, 2, 3]}, {steps: [0, 7, 1_000_003]});
  const {x} = align([long], 'step', 1000);
  assert.ok(x.length <= 1000);
  assert.ok(x.every(Number.isInteger));
  const many = Array.from({length: 5000}, (_, i) => i);
  assert.equal(align([table({a: many}, {steps: many})], 'share', 1000).x.length, 1001);
});

test('a projected table has the values, cells and spans of its measurements, and is missing elsewhere', () => {
  const rows = {a: [1, 2, 3], b: [4, 5, 6]};
  const own = table(rows, {codes: [[0, 4, 0], [0, 0, 2]], spans: [10, 20, 30], signed: true});
  const shown = project(own, [1, -1, 0, 0], [0, 1, 2, 3]);
  assert.deepEqual([...shown.values], [2, NaN, 1, 1, 5, NaN, 4, 4]);
  assert.deepEqual([...shown.codes], [4, 1, 0, 0, 0, 1, 0, 0]);
  assert.deepEqual(shown.spans, [20, null, 10, 10]);
  assert.deepEqual([shown.steps, shown.epochs], [[19, null, 9, 9], [1, null, 0, 0]]);
  assert.deepEqual([shown.times(), shown.layers, shown.signed], [[0, 1, 2, 3], ['a', 'b'], true]);
  assert.deepEqual([...own.values], [1, 2, 3, 4, 5, 6]);
  const another = project(own, [2, 0], [0, 1], ['b', 'c']);
  assert.deepEqual([...another.values], [6, 4, NaN, NaN]);
  assert.deepEqual([...another.codes], [2, 0, 1, 1]);
  assert.deepEqual([...another.rowOf], [['b', 0], ['c', 1]]);
});

test('two runs have the rows of the first one, and a single run keeps its columns', () => {
  const first = table({a: [1, 2, 3], b: [1, 2, 3]}, {short: ['A', 'B']});
  const both = new Aligned([first, quarter], '');
  assert.deepEqual([both.by, both.name, both.x], ['epoch', 'epoch', [0, 1, 2, 3]]);
  assert.deepEqual(both.tables.map(({layers, short}) => [layers, short]), Array(2).fill([['a', 'b'], ['A', 'B']]));
  assert.deepEqual([...both.tables[1].values], [4, 5, 6, 7, NaN, NaN, NaN, NaN]);
  assert.deepEqual(new Aligned([first, quarter], 'step').curves.x, [9, 19, 24, 29, 49, 74, 99]);
  assert.deepEqual([both.place(2.2), both.time(1)], [2, 1]);
  const single = new Aligned([often], 'share');
  assert.deepEqual([single.by, single.x, [...single.at[0]]], ['step', [9, 19, 29], [0, 1, 2]]);
  assert.equal(single.tables[0], often);
});

test('curves keep their own positions on one axis', () => {
  const {x, at} = join([[9, 19, 29], [19, 24]]);
  assert.deepEqual(x, [9, 19, 24, 29]);
  assert.deepEqual(at.map((one) => [...one]), [[0, 1, -1, 2], [-1, 0, 1, -1]]);
});

test('layers match by name', () => {
  const found = matching(table({a: [1], b: [1], c: [1]}), table({c: [1], d: [1], b: [1]}));
  assert.deepEqual(found, {both: ['b', 'c'], first: ['a'], second: ['d']});
});
