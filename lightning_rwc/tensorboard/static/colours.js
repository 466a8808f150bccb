// SPDX-License-Identifier: Apache-2.0
// Colour scales that also work for colour-blind people: matplotlib's viridis, and PuOr for signed values.

const channels = (text) => text.split(' ').map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
const VIRIDIS = channels(
  '#440154 #48186a #472d7b #424086 #3b528b #33638d #2c728e #26828e #21918c #1fa088 #28ae80 #3fbc73 #5ec962 #84d44b ' +
    '#addc30 #d8e219 #fde725',
);
const PUOR = channels(
  '#7f3b08 #aa5306 #d0730f #ef9e3c #fdc57f #fde4c0 #f6f6f7 #dddfed #bfbbda #988dbe #70589f #4d207d #2d004b',
);
const RATIOS = [[0.1, '÷10'], [1 / 3, '÷3'], [1, '='], [3, '×3'], [10, '×10']];
const ZERO = [190, 190, 190];
const INFINITE = [240, 59, 32];

function mix(stops, share) {
  const position = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const left = Math.min(Math.floor(position), stops.length - 2);
  return [0, 1, 2].map((i) => Math.round(stops[left][i] + (position - left) * (stops[left + 1][i] - stops[left][i])));
}

const css = ([red, green, blue]) => `rgb(${red}, ${green}, ${blue})`;

/** The colour of a layer by its depth, without the colours that are too close to the background. */
export function depthColour(row, count, dark) {
  const share = count > 1 ? row / (count - 1) : 0;
  return css(mix(VIRIDIS, dark ? 0.25 + 0.75 * share : 0.9 * share));
}

/** A scale of values, for the colour of a number and for the colour bar. */
export function valueScale([low, high], {logarithmic, signed, share: isShare}) {
  if (isShare) return {low: 0, high: 1, logarithmic: false, share: (value) => value, stops: VIRIDIS};
  if (signed) {
    const reach = Math.max(Math.abs(low), Math.abs(high)) || 1;
    return {low: -reach, high: reach, logarithmic: false, share: (value) => (value / reach + 1) / 2, stops: PUOR};
  }
  const [start, end] = logarithmic ? [Math.log(low), Math.log(high)] : [low, high];
  const share = (value) => ((logarithmic ? Math.log(value) : value) - start) / (end - start || 1);
  return {low, high, logarithmic, share, stops: VIRIDIS};
}

/** Red, green and blue of a value, or null for nan. */
export function paint(scale, value) {
  if (Number.isNaN(value)) return null;
  if (!Number.isFinite(value)) return INFINITE;
  if (scale.logarithmic && value <= 0) return ZERO;
  return mix(scale.stops, scale.share(value));
}

/** The scale of ratios, from ÷10 to ×10; or of differences, if there is a `reach`. */
export function differenceScale(reach, ticks = RATIOS) {
  if (reach !== null) return {...valueScale([-reach, reach], {signed: true}), signed: true};
  const [[low], [high]] = [ticks[0], ticks[ticks.length - 1]];
  const share = (value) => Math.log(value / low) / Math.log(high / low);
  return {low, high, logarithmic: true, share, stops: PUOR, ticks};
}

export const barColour = (scale, share) => css(mix(scale.stops, share));
