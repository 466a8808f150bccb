// SPDX-License-Identifier: Apache-2.0
// What all our canvases share.

export const FONT = '11px Roboto, system-ui, sans-serif';

/** Colours of the page's style sheet. */
export function inks() {
  const style = getComputedStyle(document.documentElement);
  const names = ['text', 'faint', 'line', 'ground', 'accent', 'finding'];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/** Clear a canvas of so many pixels of the page, and give what draws on it in these. */
export function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  Object.assign(canvas.style, {width: `${width}px`, height: `${height}px`});
  const context = canvas.getContext('2d');
  context.scale(ratio, ratio);
  context.font = FONT;
  context.textBaseline = 'middle';
  return context;
}

/** Where rows are on the page: what the heatmap and the profile must agree on. */
export const EDGE = {top: 4, bottom: 36};
