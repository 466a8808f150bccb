// SPDX-License-Identifier: Apache-2.0
// What a cell is: a value, or something that is drawn in another way. appearance.json says how.

/** The codes of the server, by name. */
export const CODES = {
  value: 0,
  missing: 1,
  not_finite: 2,
  from_zero: 3,
  zero: 4,
  frozen: 5,
  no_gradient: 6,
  only_decays: 7,
  not_in_optimizer: 8,
  rounded_away: 9,
};

/** What values alone tell, where the server says no more. On a linear scale zero is a value like any other. */
export function guess(values, linear) {
  const {value, not_finite: notFinite, from_zero: fromZero, zero} = CODES;
  return Uint8Array.from(values, (number) => {
    if (Number.isNaN(number)) return notFinite;
    if (!Number.isFinite(number)) return fromZero;
    return number === 0 && !linear ? zero : value;
  });
}

/**
 * How each of `codes` is drawn: {name, fill, ink, strong, tile, loud, words}. Fill and ink are pixels of a canvas, and
 * `strong` is the one that is seen where there is no room for a pattern, as text.
 *
 * @param appearance the content of appearance.json
 * @param ground the colour of a cell that was not measured
 */
export function looks({cells, patterns}, ground, codes = CODES) {
  const found = [];
  for (const [name, {fill, ink, pattern, loud, words}] of Object.entries(cells)) {
    const tile = patterns[pattern]?.map((line) => [...line].map((mark) => mark === '#'));
    const colours = [name === 'missing' ? ground : fill, ink].map(channels);
    const strong = tile && Math.min(...colours[0]) > 240 ? ink : fill;
    found[codes[name]] = {name, fill: packed(colours[0]), ink: packed(colours[1]), strong, tile, loud, words};
  }
  return found;
}

export const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** A pixel of a canvas's image, for a machine that stores the lowest byte first, as all that run browsers do. */
export const packed = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
