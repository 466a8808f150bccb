// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {decode, encode, spaced} from '../../../lightning_rwc/tensorboard/static/links.js';

const DEFAULTS = {run: '', sort: 'depth', pins: ''};

test('a link gives back what was put in', () => {
  const state = {run: 'a&b=c/ü', sort: 'depth', pins: '["x"]'};
  const hash = encode('#lightning_rwc', state, DEFAULTS);
  assert.equal(hash, '#lightning_rwc&p.lightning_rwc.run=a%26b%3Dc%2F%C3%BC&p.lightning_rwc.pins=%5B%22x%22%5D');
  assert.deepEqual(decode(hash, DEFAULTS), {run: state.run, pins: state.pins});
});

test('what other tabs keep in the address stays, and what was there of ours goes', () => {
  const hash = encode('#timeseries&p.other.run=1&p.lightning_rwc.run=old', {run: 'new'}, DEFAULTS);
  assert.equal(hash, '#timeseries&p.other.run=1&p.lightning_rwc.run=new');
  assert.equal(encode('', DEFAULTS, DEFAULTS), '#lightning_rwc');
});

test('unknown names and broken characters are left out', () => {
  const hash = '#x&p.lightning_rwc.secret=1&p.lightning_rwc.run=%E2%82&p.lightning_rwc.sort=name';
  assert.deepEqual(decode(hash, DEFAULTS), {sort: 'name'});
  assert.deepEqual(decode('#x&p.lightning_rwc.constructor=1', DEFAULTS), {});
});

test('what is asked for often is done now and then, and at last', () => {
  const seen = [];
  let [state, tick] = [0, null];
  const call = spaced(() => seen.push(state), 300, (done) => (tick = done));
  for (state of [1, 2, 3]) call();
  assert.deepEqual(seen, [1]);
  tick();
  assert.deepEqual(seen, [1, 3]);
  tick();
  assert.deepEqual(seen, [1, 3]);
  state = 4;
  call();
  assert.deepEqual(seen, [1, 3, 4]);
});
