// SPDX-License-Identifier: Apache-2.0
// The key below the maps: the kinds of cells that are there, and the mark of findings.
import {CODES} from './cells.js';
import {add, make} from './dom.js';

const SIZE = 14;

/** The kinds of cells among `codes`, the loud ones first. */
export function present(codes, looks) {
  const found = new Uint8Array(256);
  for (const code of codes) found[code] = 1;
  const kinds = looks.filter((look, code) => look && found[code]);
  return [...kinds.filter(({loud}) => loud), ...kinds.filter(({loud}) => !loud)];
}

export class Key {
  constructor(parent) {
    this.element = add(parent, 'ul', {id: 'key', ariaLabel: 'key'});
  }

  /**
   * @param looks how kinds of cells are drawn
   * @param words what kinds mean for this quantity, by name, where that is more than appearance.json says
   */
  show({codes, looks, words, findings, opens}) {
    const items = present(codes, looks).map((look) => item(swatch(look), words?.[look.name] || look.words));
    if (!codes.some((code) => code !== CODES.value)) items.push(item(null, 'every cell has a value'));
    if (findings) items.push(item(mark('mark'), 'row with a finding'), item(mark('when'), 'when it was found'));
    if (opens) items.push(item(mark('opens', '▸'), 'opens the units of a layer'));
    this.element.replaceChildren(...items);
  }
}

/** An entry of a key. */
export function item(sign, words) {
  const one = make('li');
  if (sign) one.append(sign);
  add(one, 'span', {className: 'words', textContent: words});
  return one;
}

const mark = (className, textContent = '') => make('span', {className, textContent});

export function swatch({fill, ink, tile}) {
  const canvas = make('canvas', {width: SIZE, height: SIZE, className: 'swatch'});
  const pixels = Uint32Array.from({length: SIZE ** 2}, (_, at) =>
    tile?.[Math.floor(at / SIZE) % 6][(at % SIZE) % 6] ? ink : fill,
  );
  canvas.getContext('2d').putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), SIZE, SIZE), 0, 0);
  return canvas;
}
