// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {View} from '../../../lightning_rwc/tensorboard/static/view.js';

const rounded = (view) =>
  Object.fromEntries(Object.entries(view.save()).map(([key, value]) => [key, +value.toFixed(9)]));

test('zooming keeps the place under the pointer, and can be along one direction', () => {
  const view = new View();
  view.zoom(0.5, 0.25, 0, {rows: false});
  assert.deepEqual(rounded(view), {x0: 0.125, x1: 0.625, y0: 0, y1: 1});
  view.zoom(0.5, 0.5, 1, {columns: false});
  assert.deepEqual(rounded(view), {x0: 0.125, x1: 0.625, y0: 0.5, y1: 1});
  assert.deepEqual(view.span(8, 4), {left: 1, right: 5, top: 2, bottom: 4});
  view.zoom(100);
  assert.equal(view.whole, true);
});

test('moving stops at the ends', () => {
  const view = new View();
  view.restore({x0: 0.25, x1: 0.75, y0: 0.5, y1: 1});
  view.move(0.25, 1);
  assert.deepEqual(rounded(view), {x0: 0.375, x1: 0.875, y0: 0.5, y1: 1});
  view.move(-9, -9);
  assert.deepEqual(rounded(view), {x0: 0, x1: 0.5, y0: 0, y1: 0.5});
});

test('rows are brought into view, and no further than needed', () => {
  const view = new View();
  view.restore({x0: 0, x1: 1, y0: 0.5, y1: 0.75});
  view.revealRows(0.6, 0.7);
  assert.deepEqual(rounded(view), {x0: 0, x1: 1, y0: 0.5, y1: 0.75});
  view.revealRows(0.9, 1);
  assert.deepEqual(rounded(view), {x0: 0, x1: 1, y0: 0.75, y1: 1});
  view.revealRows(0.1, 0.2);
  assert.deepEqual(rounded(view), {x0: 0, x1: 1, y0: 0.1, y1: 0.35});
  view.revealRows(0, 1);
  assert.equal(view.whole, true);
  view.restore({x0: 0, x1: 0.5, y0: 0, y1: 1});
  view.revealColumns(0.75, 1);
  assert.deepEqual(rounded(view), {x0: 0.5, x1: 1, y0: 0, y1: 1});
});
