// SPDX-License-Identifier: Apache-2.0
// What somebody needs who sees the tab for the first time.
import {add} from './dom.js';

const LINES = [
  'A row is a layer, the first one at the top. A column is a measurement. The colour says how much the weights ' +
    'changed, relative to their size: the words at the colour bar mean the same in every run.',
  'Healthy: the first columns are bright, the next ones lie near “typical”, and all rows fade together. In long ' +
    'trainings they end near “slow”.',
  'Nearly all rows at “replaced” in the first column, or at “fast” later on: the learning rate may be too high. No ' +
    'bright first columns, and all rows below “typical”: it may be too low.',
  'One row unlike its neighbours: this layer learns faster or slower than the others. Patterns: it does not learn at ' +
    'all, or its weights are lost; the key below the map says why.',
  'More of it, with examples: docs/reading.md of lightning-rwc.',
];

export function help(parent) {
  const details = add(parent, 'details', {id: 'help'});
  add(details, 'summary', {textContent: 'How to read it'});
  for (const textContent of LINES) add(details, 'p', {textContent});
}
