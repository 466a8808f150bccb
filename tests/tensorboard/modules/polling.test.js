// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {poll} from '../../../lightning_rwc/tensorboard/static/polling.js';

test('it asks at once and again, says what failed, and rests where nobody looks', async () => {
  const told = [];
  let [calls, looked, tick] = [0, true, null];
  const act = async () => {
    if (++calls === 2) throw new Error('gone');
  };
  const clock = {visible: () => looked, every: (call, milliseconds) => ([tick] = [call, told.push(milliseconds)])};
  await poll(act, (error) => told.push(error && error.message), {milliseconds: 7, ...clock});
  assert.deepEqual(told, [null, 7]);
  await tick();
  await tick();
  assert.deepEqual(told, [null, 7, 'gone', null]);
  looked = false;
  await tick();
  assert.equal(calls, 3);
});

test('it does not ask while an answer is awaited', async () => {
  let [calls, tick, answer] = [0, null, null];
  const act = () => (++calls === 2 ? new Promise((done) => (answer = done)) : Promise.resolve());
  await poll(act, () => {}, {visible: () => true, every: (call) => (tick = call)});
  const slow = tick();
  await tick();
  assert.equal(calls, 2);
  answer();
  await slow;
  await tick();
  assert.equal(calls, 3);
});
