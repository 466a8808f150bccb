// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {
  commonPath,
  filtered,
  groupOf,
  grouped,
  mean,
  rowsOf,
  sorted,
  together,
} from '../../../lightning_rwc/tensorboard/static/sweep.js';
import {close, table} from './tables.js';

const CODES = {value: 0, missing: 1, not_finite: 2, zero: 4, frozen: 5};

test('runs are filtered by an expression, and a broken one filters nothing', () => {
  assert.deepEqual(filtered(['lr_1', 'LR_2', 'mlp'], '^lr'), ['lr_1', 'LR_2']);
  assert.deepEqual(filtered(['a', 'b'], ''), ['a', 'b']);
  assert.equal(filtered(['a'], '('), null);
});

test('runs that differ only in what * matches are a group', () => {
  for (const [name, pattern, group] of [
    ['lr=0.1/seed_3', 'seed_*', 'lr=0.1/seed_*'],
    ['lr=0.1/seed_3/version_0', 'seed_*', 'lr=0.1/seed_*/version_0'],
    ['lr=0.1/seed_3/version_0', '/seed_*/', 'lr=0.1/seed_*/version_0'],
    ['lr=0.1/seed_3', '*/seed_3', '*/seed_3'],
    ['x/lr=0.1/seed_3', '*/seed_3', 'x/*/seed_3'],
    ['seed_3-lr_1', 'seed_*-lr_*', 'seed_*-lr_*'],
    ['a/b', 'seed_*', 'a/b'],
    ['seed/x_1', 'seed*_1', 'seed/x_1'],
    ['a+(b', 'a+(*', 'a+(*'],
    ['seed_3', 'seed_3', 'seed_3'],
    ['seed_3', '', 'seed_3'],
  ]) {
    assert.equal(groupOf(name, pattern), group, `${name} by ${pattern}`);
  }
  const runs = ['a/seed_1', 'b/seed_1', 'a/seed_2', 'c'];
  assert.deepEqual(grouped(runs, 'seed_*'), [
    {name: 'a/seed_*', runs: ['a/seed_1', 'a/seed_2']},
    {name: 'b/seed_1', runs: ['b/seed_1']},
    {name: 'c', runs: ['c']},
  ]);
  const hostile = 'x'.repeat(10_000);
  assert.equal(groupOf(hostile, 'x*x*x*x*x*x*x*x*y'), hostile);
});

test('groups are in the order of their names, times or scalars', () => {
  const groups = [{name: 'r10', runs: ['r10']}, {name: 'r2', runs: ['p', 'q']}, {name: 'r1', runs: ['r1']}];
  const names = (...more) => sorted(groups, ...more).map(({name}) => name);
  assert.deepEqual(names('name'), ['r1', 'r2', 'r10']);
  assert.deepEqual(names('newest', {r10: 5, p: 1, q: 9, r1: 7}), ['r2', 'r1', 'r10']);
  const loss = {r10: 0.2, p: 0.1, q: 0.5};
  assert.deepEqual(names('lowest', loss), ['r10', 'r2', 'r1']);
  assert.deepEqual(names('highest', loss), ['r2', 'r10', 'r1']);
  assert.deepEqual(names('lowest', {...loss, r1: null}), ['r10', 'r2', 'r1']);
  assert.ok(close(mean(groups[1], loss), 0.3));
  assert.ok(Number.isNaN(mean(groups[2], {r1: NaN})));
});

test('tables that share half of their layers have the same rows', () => {
  const tables = [{a: [1], b: [1], d: [1]}, {a: [1], c: [1], d: [1], e: [1]}, {x: [1], a: [1], y: [1], z: [1]}];
  const rows = rowsOf(tables.map((rows) => table(rows)));
  assert.deepEqual(rows[0], ['a', 'c', 'b', 'd', 'e']);
  assert.equal(rows[1], rows[0]);
  assert.deepEqual(rows[2], ['x', 'a', 'y', 'z']);
});

test('a group is its geometric mean, with the range', () => {
  const runs = [
    table({a: [1, 0, 0, NaN, 2], b: [1, 1, 1, 1, 1]}),
    table({a: [4, 0, 4, 1, 2]}),
    table({a: [16, 0, 16, 1, 2]}),
  ];
  const group = together(runs, ['a', 'b'], CODES);
  assert.deepEqual([...group.cells], [0, 4, 0, 2, 0, 0, 0, 0, 0, 0]);
  // The cube root of 1 · 4 · 16 is 4, the square root of 4 · 16 is 8.
  [4, 0, 8, 1, 2].forEach((value, column) => assert.ok(close(group.values[column], value) || group.values[column] === value));
  assert.deepEqual([group.low[0], group.high[0], group.low[2], group.high[2]], [1, 16, 0, 16]);
  assert.deepEqual([...group.values.slice(5)], [1, 1, 1, 1, 1]);
});

test('signed quantities have a mean, and cells keep a cause that all runs share', () => {
  const mixed = [[-1, 0, 3], [2, 0, 3]].map((row, run) =>
    table({a: row}, {signed: true, cells: [[0, 5, run ? 1 : 0]]}));
  const group = together(mixed, ['a'], CODES);
  assert.deepEqual([...group.values], [0.5, 0, 3]);
  assert.deepEqual([...group.cells], [0, 5, 0]);
  assert.deepEqual([group.low[0], group.high[0]], [-1, 2]);
});

test('what the paths of all runs start with', () => {
  assert.equal(commonPath(['x/y/a', 'x/y/ab', 'x/y/z/c']), 'x/y/');
  assert.equal(commonPath(['x/ya', 'x/yb']), 'x/');
  assert.equal(commonPath(['a', 'ab']), '');
  assert.equal(commonPath(['x/a', '/a']), '');
  assert.equal(commonPath([]), '');
});
