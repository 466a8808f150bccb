// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {Frames} from '../../../lightning_rwc/tensorboard/static/frames.js';

test('work is done once a frame, and all instead of any part', () => {
  const [done, next] = [[], []];
  const work = {all: () => done.push('all'), marks: () => done.push('marks'), maps: () => done.push('maps')};
  const frames = new Frames(work, (act) => next.push(act));
  frames.ask('marks');
  frames.ask('maps');
  frames.ask('marks');
  assert.equal(next.length, 1);
  next.pop()();
  assert.deepEqual(done, ['marks', 'maps']);
  frames.ask('marks');
  frames.ask('all');
  frames.ask('maps');
  next.pop()();
  assert.deepEqual(done.slice(2), ['all']);
  assert.equal(next.length, 0);
});

test('what is asked for while a frame is drawn comes with the next one', () => {
  const next = [];
  let count = 0;
  const frames = new Frames({marks: () => ++count < 2 && frames.ask('marks')}, (act) => next.push(act));
  frames.ask('marks');
  next.shift()();
  assert.equal(next.length, 1);
  next.shift()();
  assert.equal(count, 2);
  assert.equal(next.length, 0);
});
