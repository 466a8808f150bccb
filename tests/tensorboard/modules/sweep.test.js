// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {
  commonPath,
  compareNames,
  filtered,
  groupOf,
  grouped,
  mean,
  rowsOf,
  sorted,
  together,
} from '../../../lightning_rwc/tensorboard/static/sweep.js';
import {byName as table, close} from './tables.js';

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
  const runs = [[1, 0, 0, NaN, 2], [4, 0, 4, 1, 2], [16, 0, 16, 1, NaN]].map((row, run) =>
    table({a: row}, run < 2 ? {} : {codes: [[0, 4, 0, 0, 1]]}),
  );
  const group = together(runs);
  assert.deepEqual([...group.codes], [0, 4, 0, 2, 0]);
  // The cube root of 1 · 4 · 16 is 4, the square root of 4 · 16 is 8.
  [4, 0, 8, 1, 2].forEach((value, cell) => assert.ok(close(group.values[cell], value), `${group.values[cell]}`));
  assert.deepEqual([...group.low], [1, 0, 0, 1, 2]);
  assert.deepEqual([...group.high], [16, 0, 16, 1, 2]);
});

test('signed quantities have a mean, and cells keep a cause that all runs share', () => {
  const group = together(
    [[-1, 0, 3], [2, 0, 3]].map((row, run) => table({a: row}, {signed: true, codes: [[0, 5, run ? 1 : 0]]})),
  );
  assert.deepEqual([...group.values], [0.5, 0, 3]);
  assert.deepEqual([...group.codes], [0, 5, 0]);
  assert.deepEqual([group.low[0], group.high[0]], [-1, 2]);
});

test('names are in the order of their numbers', () => {
  const names = ['lr=0.3', 'lr=0.03/seed_10', 'lr=0.03/seed_2', 'lr=1e-4', 'lr=0.003', 'b', 'a10b', 'a2b', 'a'];
  const order = ['a', 'a2b', 'a10b', 'b', 'lr=1e-4', 'lr=0.003', 'lr=0.03/seed_2', 'lr=0.03/seed_10', 'lr=0.3'];
  assert.deepEqual(names.sort(compareNames), order);
  assert.equal(compareNames('x', 'x'), 0);
});

test('what the paths of all runs start with', () => {
  assert.equal(commonPath(['x/y/a', 'x/y/ab', 'x/y/z/c']), 'x/y/');
  assert.equal(commonPath(['x/ya', 'x/yb']), 'x/');
  assert.equal(commonPath(['a', 'ab']), '');
  assert.equal(commonPath(['x/a', '/a']), '');
  assert.equal(commonPath([]), '');
});
