// SPDX-License-Identifier: Apache-2.0
// The colours of curves: by depth, or of runs. Viridis stands for values only.
import {channels} from './cells.js';
import {mix} from './scales.js';

// Matplotlib's plasma, without the end that is too close to the background.
const stops = (text) => text.split(' ').map(channels);
const LIGHT = stops('#0d0887 #370499 #5801a4 #7701a8 #9410a2 #ac2694 #c23c81 #d5536f #e56a5d #f1834c #fa9c3c #feba2c');
const DARK = stops('#8f0da4 #a62098 #b83289 #c9447a #d7566c #e56a5d #ef7e50 #f79342 #fdab33 #fdc328 #f9dd25 #f0f921');

const css = ([red, green, blue]) => `rgb(${red}, ${green}, ${blue})`;

/** The colour of a row's curve: of a layer by its depth, of a unit by its activity. */
export function rowColour(name, table, dark) {
  const count = table.layers.length;
  return css(mix(dark ? DARK : LIGHT, count > 1 ? table.rowOf.get(name) / (count - 1) : 0));
}

/** The colours of the selected run and of the one it is compared with. */
export const runColours = (dark) => (dark ? ['#8ab4f8', '#fdb863'] : ['#174ea6', '#c2590a']);
