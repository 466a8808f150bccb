// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {Store, choices, fulfils, linked} from '../../../lightning_rwc/tensorboard/static/store.js';

const one = (run, prefix, layer = null, newest = 1) => ({run, prefix, layer, label: prefix, layers: 3, newest});
const NOTHING = {run: '', other: '', prefix: '', layer: ''};

test('a log without tables has nothing to choose', () => {
  assert.equal(choices([], NOTHING), null);
  assert.equal(choices([one('a', 'rwc', 'fc')], NOTHING), null);
});

test('what is not there is replaced by something that is', () => {
  const series = [one('b', 'rwc'), one('b', 'rwc_rotation'), one('b', 'rwc', 'fc'), one('b', 'l2', 'own')];
  const there = choices(series, {run: 'b', other: 'gone', prefix: 'rwc_strength', layer: 'gone'});
  assert.deepEqual(there.state, {run: 'b', other: '', prefix: 'rwc', layer: ''});
  assert.deepEqual([...there.opens], ['fc']);
  assert.deepEqual(there.tables.map(({prefix}) => prefix), ['rwc', 'rwc_rotation']);
});

test('the newest run is first, and chosen where none is', () => {
  const others = ['b', 'a10', 'a9'].map((run) => one(run, 'rwc'));
  const series = [one('old', 'rwc', null, 5), one('new', 'rwc', null, 9), ...others];
  const there = choices([...series, one('old', 'l2', null, 7)], NOTHING);
  assert.deepEqual(there.runs, ['new', 'old', 'a9', 'a10', 'b']);
  assert.equal(there.state.run, 'new');
  assert.deepEqual(there.gone, []);
  assert.deepEqual(choices(series, {...NOTHING, run: 'x', other: 'y'}).gone, ['x', 'y']);
});

test('the tables of an opened layer are those of its units', () => {
  const series = [one('a', 'rwc'), one('a', 'rwc_still'), one('a', 'rwc', 'fc'), one('a', 'rwc_rotation', 'fc')];
  const there = choices(series, {...NOTHING, run: 'a', prefix: 'rwc_still', layer: 'fc'});
  assert.deepEqual(there.state, {run: 'a', other: '', prefix: 'rwc', layer: 'fc'});
  assert.deepEqual(there.tables.map(({prefix}) => prefix), ['rwc', 'rwc_rotation']);
});

test('only tables that have grown are fetched again', async () => {
  const fetched = [];
  const store = new Store(async (run, prefix) => (fetched.push(run), {run, prefix}));
  const state = {prefix: 'rwc', layer: ''};
  store.series = [one('a', 'rwc'), one('b', 'rwc')];
  assert.equal(await store.load(['a', 'b'], state), true);
  assert.equal(await store.load(['a', 'b'], state), false);
  store.series = [one('a', 'rwc', null, 2), one('b', 'rwc')];
  assert.equal(await store.load(['a', 'b'], state), true);
  assert.deepEqual(fetched, ['a', 'b', 'a']);
  assert.deepEqual(store.table('b', state), {run: 'b', prefix: 'rwc'});
  assert.equal(await store.load(['a', ''], state), true);
  assert.equal(store.table('b', state), undefined);
});

test('a run is not compared with itself', () => {
  const series = [one('a', 'rwc'), one('b', 'rwc')];
  assert.deepEqual(choices(series, {...NOTHING, run: 'b', other: 'b'}).state.other, '');
  assert.deepEqual(choices(series, {...NOTHING, run: 'b', other: 'a'}).state.other, 'a');
});

test('a load that ends late does not undo a later one', async () => {
  const answers = {};
  const store = new Store((run) => new Promise((answer) => (answers[run] = () => answer({run}))));
  const state = {prefix: 'rwc', layer: ''};
  store.series = [one('a', 'rwc'), one('b', 'rwc')];
  const [first, second] = [store.load(['a'], state), store.load(['b'], state)];
  answers.b();
  assert.equal(await second, true);
  answers.a();
  assert.equal(await first, false);
  assert.deepEqual(store.table('b', state), {run: 'b'});
});

test('a link waits for all that it names, and the run that is shown stays meanwhile', () => {
  const link = {run: 'a', other: 'b', prefix: 'rwc_rotation', layer: 'fc'};
  const asked = (series, state) => choices(series, linked(series, state, link)).state;
  const first = asked([one('c', 'rwc')], link);
  assert.deepEqual(first, {run: 'c', other: '', prefix: 'rwc', layer: ''});
  const newer = [one('c', 'rwc'), one('b', 'rwc', null, 2)];
  const second = asked(newer, first);
  assert.deepEqual(second, {run: 'c', other: '', prefix: 'rwc', layer: ''});
  assert.equal(fulfils(second, link), false);
  const own = [one('a', 'rwc'), one('a', 'rwc_rotation', 'fc')];
  assert.deepEqual(asked(own, second), {...link, other: ''});
  const third = asked([...newer, ...own], second);
  assert.deepEqual(third, link);
  assert.equal(fulfils(third, link), true);
  assert.equal(fulfils(third, {...link, other: '', layer: ''}), true);
  assert.equal(linked(newer, second, null), second);
});
