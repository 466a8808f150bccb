// SPDX-License-Identifier: Apache-2.0
// What somebody needs who sees the tab for the first time.
import {add} from './dom.js';

const LINES = [
  'A row is a layer, the first one at the top. A column is a measurement. The colour says how much the weights ' +
    'changed, relative to their size: the words at the colour bar mean the same in every run.',
  'Healthy: most rows are near “typical”, and all of them fade together as the learning rate falls.',
  'Every row much darker or brighter than that: the learning rate is too low or too high for this model.',
  'One row unlike its neighbours: this layer learns faster or slower than the others. Patterns: it does not learn at ' +
    'all, or its weights are lost; the key below the map says why.',
  'More of it, with examples: docs/reading.md of lightning-rwc.',
];

export function help(parent) {
  const details = add(parent, 'details', {id: 'help'});
  add(details, 'summary', {textContent: 'How to read it'});
  for (const textContent of LINES) add(details, 'p', {textContent});
}
