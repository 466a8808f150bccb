// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {Selection} from '../../../lightning_rwc/tensorboard/static/selection.js';

const fresh = (state) => {
  const changes = [];
  return [new Selection(state, (names) => changes.push(names)), changes];
};

test('a pin comes and goes, and units have their own', () => {
  const [selection, changes] = fresh({});
  selection.pin('a');
  selection.pin('b');
  selection.pin('a');
  assert.deepEqual(selection.pins, ['b']);
  selection.set({layer: 'fc'});
  assert.deepEqual(selection.pins, []);
  selection.pin('3');
  assert.equal(selection.state.unitPins, '["3"]');
  assert.equal(selection.state.pins, '["b"]');
  assert.deepEqual(changes, [['pins'], ['pins'], ['pins'], ['layer'], ['unitPins']]);
});

test('pins of a broken link are none', () => {
  assert.deepEqual(fresh({pins: '['})[0].pins, []);
  assert.deepEqual(fresh({pins: '[1, "a"]'})[0].pins, ['a']);
});

test('the newest measurement stays the newest, another one stays itself', () => {
  const [selection] = fresh({});
  assert.equal(selection.column([9, 19, 29]), 2);
  selection.select(1, [9, 19, 29]);
  assert.equal(selection.column([9, 19, 29, 39]), 1);
  selection.select(2, [9, 19, 29]);
  assert.equal(selection.column([9, 19, 29, 39]), 3);
  assert.equal(selection.column([]), -1);
});

test('a measurement that is left out gives way to the nearest one', () => {
  const [selection] = fresh({time: '22'});
  assert.equal(selection.column([9, 19, 29]), 1);
  assert.equal(selection.column([30, 40]), 0);
  assert.equal(selection.column([]), -1);
  assert.equal(fresh({time: 'x'})[0].column([9, 19]), 1);
});
