// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {AllRuns} from '../../../lightning_rwc/tensorboard/static/all_runs.js';
import {Store} from '../../../lightning_rwc/tensorboard/static/store.js';

test('a load that ends late does not undo a later one', async () => {
  const store = new Store(async (run) => ({run}));
  store.series = ['a', 'b'].map((run) => ({run, prefix: 'rwc', layer: null, newest: 1}));
  const answers = [];
  const fetchScalars = () => new Promise((answer) => answers.push(() => answer({tags: []})));
  // Without a page.
  const all = Object.assign(Object.create(AllRuns.prototype), {store, fetchScalars, names: [], turn: 0, offer() {}});
  const state = {prefix: 'rwc', layer: '', scalar: '', order: 'name', group: ''};
  const [first, second] = [all.load({...state, runs: 'a'}), all.load({...state, runs: 'b'})];
  answers[1]();
  assert.equal(await second, true);
  answers[0]();
  assert.equal(await first, false);
  assert.deepEqual(all.names, ['b']);
  assert.equal(store.table('a', state), undefined);
});
