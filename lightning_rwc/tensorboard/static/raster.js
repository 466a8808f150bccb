// SPDX-License-Identifier: Apache-2.0
// The pixels of a heatmap. Patterns keep their size on the screen, whatever the size of a cell.

/** Cells that must be seen take at least so many pixels of a page. */
const SEEN = 3;

/**
 * The picture of cells, as 32 bits for each pixel.
 *
 * @param cells {columns, codes, colours}: codes of cells.js, and the colours of values, row by row
 * @param span {left, right, top, bottom}: the visible part, in cells
 * @param size {width, height, ratio}: in pixels of the screen, and how many of them a pixel of the page has
 * @param looks of cells.js
 */
export function raster({columns, codes, colours}, span, {width, height, ratio}, looks) {
  const image = new Uint32Array(width * height);
  if (!codes.length) return image;
  const rows = codes.length / columns;
  const [across, down] = [(span.right - span.left) / width, (span.bottom - span.top) / height];
  const columnAt = Uint32Array.from({length: width}, (_, x) => Math.min(span.left + (x + 0.5) * across, columns - 1));
  const tileAt = Uint32Array.from({length: width}, (_, x) => (x / ratio) % 6);
  for (let y = 0, pixel = 0; y < height; y++) {
    const start = Math.min(Math.floor(span.top + (y + 0.5) * down), rows - 1) * columns;
    const line = Math.floor(y / ratio) % 6;
    for (let x = 0; x < width; x++, pixel++) {
      const cell = start + columnAt[x];
      const look = looks[codes[cell]];
      image[pixel] = look === undefined ? colours[cell] : look.tile?.[line][tileAt[x]] ? look.ink : look.fill;
    }
  }
  const least = SEEN * ratio;
  if (across * least > 1 || down * least > 1) shout(image, {columns, rows, codes}, span, {width, height, ratio}, looks);
  return image;
}

/** Draw loud cells again, large enough to be seen. */
function shout(image, {columns, rows, codes}, span, {width, height, ratio}, looks) {
  const loud = looks.map((look) => look?.loud);
  const [wide, high] = [width / (span.right - span.left), height / (span.bottom - span.top)];
  const least = SEEN * ratio;
  const [firstColumn, lastColumn] = [Math.floor(span.left), Math.min(Math.ceil(span.right), columns)];
  for (let row = Math.floor(span.top); row < Math.min(Math.ceil(span.bottom), rows); row++) {
    for (let column = firstColumn; column < lastColumn; column++) {
      const code = codes[row * columns + column];
      if (!loud[code]) continue;
      const {tile, ink, fill} = looks[code];
      const [left, right] = reach((column - span.left) * wide, wide, least, width);
      const [top, bottom] = reach((row - span.top) * high, high, least, height);
      for (let y = top; y < bottom; y++) {
        const line = tile?.[Math.floor(y / ratio) % 6];
        for (let x = left; x < right; x++) {
          image[y * width + x] = line?.[Math.floor(x / ratio) % 6] ? ink : fill;
        }
      }
    }
  }
}

function reach(start, size, least, limit) {
  const from = Math.max(Math.round(size < least ? start + (size - least) / 2 : start), 0);
  return [from, Math.min(from + Math.round(Math.max(size, least)), limit)];
}
