// SPDX-License-Identifier: Apache-2.0
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {readFileSync} from 'node:fs';
import {CODES, guess, looks} from '../../../lightning_rwc/tensorboard/static/cells.js';
import {present} from '../../../lightning_rwc/tensorboard/static/key.js';
import {lostSince} from '../../../lightning_rwc/tensorboard/static/data.js';
import {table} from './tables.js';

const APPEARANCE = JSON.parse(readFileSync(new URL('../../../lightning_rwc/appearance.json', import.meta.url)));

test('without codes of the server, values tell what they can', () => {
  assert.deepEqual([...guess(Float32Array.of(1, NaN, Infinity, 0), false)], [0, 2, 3, 4]);
  assert.deepEqual([...guess(Float32Array.of(0, -1), true)], [0, 0]);
});

test('every kind of cell but values has a look', () => {
  const found = looks(APPEARANCE, '#010203');
  for (const [name, code] of Object.entries(CODES)) {
    assert.equal(found[code]?.name, name === 'value' ? undefined : name);
  }
  for (const look of found.filter(Boolean)) assert.ok(look.tile === undefined || look.tile.length === 6);
  assert.equal(found[CODES.missing].fill, 0xff030201);
});

test('the key has the kinds that are there, the loud ones first', () => {
  const found = looks(APPEARANCE, '#ffffff');
  const names = (codes) => present(codes, found).map(({name}) => name);
  assert.deepEqual(names([0, 4, 0, 2, 5]), ['not_finite', 'zero', 'frozen']);
  assert.deepEqual(names([0]), []);
});

test('a table is lost since the first column after which no row has a number', () => {
  assert.equal(lostSince(table([[1, NaN, NaN], [1, 2, NaN]]), ['a', 'b']), 2);
  assert.equal(lostSince(table([[NaN, NaN]]), ['a']), 0);
  assert.equal(lostSince(table([[NaN, 1]]), ['a']), -1);
  assert.equal(lostSince(table([[NaN, NaN]]), []), -1);
});
