// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {Player} from '../../../lightning_rwc/tensorboard/static/playing.js';

function player() {
  const seen = [];
  const clock = {start: (tick) => ((clock.tick = tick), 1), stop: () => (clock.tick = null)};
  const on = {show: (column) => seen.push(column), turned: (playing) => seen.push(playing)};
  return [new Player(on, clock), clock, seen];
}

test('it walks to the end and stops', () => {
  const [one, clock, seen] = player();
  one.toggle(1, () => 3);
  clock.tick();
  clock.tick();
  assert.deepEqual(seen, [true, 1, 2, false]);
  assert.equal(clock.tick, null);
});

test('at the end it begins anew, and a second press stops it', () => {
  const [one, clock, seen] = player();
  one.toggle(2, () => 3);
  clock.tick();
  one.toggle(0, () => 3);
  assert.deepEqual(seen, [true, 0, false]);
});
