// SPDX-License-Identifier: Apache-2.0
// What colours mean: a bar with its title, and ticks with words.
import {inks, sized} from './canvas.js';
import {readable} from './data.js';
import {add} from './dom.js';
import {mix} from './scales.js';

const [SIDE, BAR, HEIGHT] = [22, 12, 46];

export class ColourBar {
  constructor(parent) {
    this.figure = add(parent, 'figure', {id: 'colours'});
    this.caption = add(this.figure, 'figcaption');
    this.canvas = add(this.figure, 'canvas');
    this.canvas.setAttribute('role', 'img');
  }

  /** Show a scale of scales.js. */
  show(scale) {
    this.caption.textContent = scale.title;
    const number = (value) => (scale.onlyWords ? '' : readable(value));
    const said = scale.ticks.map(([value, word]) => [number(value), word].filter(Boolean).join(' '));
    this.canvas.setAttribute('aria-label', `colours of ${scale.title}: ${said.join(', ')}`);
    const width = this.figure.clientWidth || 300;
    const context = sized(this.canvas, width, HEIGHT);
    const {text, faint} = inks();
    const size = width - 2 * SIDE;
    for (let x = 0; x < size; x++) {
      context.fillStyle = `rgb(${mix(scale.stops, x / (size - 1)).join(' ')})`;
      context.fillRect(SIDE + x, 0, 1.5, BAR);
    }
    context.textAlign = 'center';
    const lines = scale.onlyWords ? [[1, BAR + 10, text]] : [
      [0, BAR + 10, text],
      [1, BAR + 24, faint],
    ];
    for (const [part, y, colour] of lines) {
      let taken = -Infinity;
      for (const tick of scale.ticks) {
        const words = part ? tick[1] : readable(tick[0]);
        const x = SIDE + scale.share(tick[0], 1) * size;
        const half = context.measureText(words).width / 2;
        if (!words || x - half < taken + 5) continue;
        context.fillStyle = text;
        context.fillRect(Math.min(x, SIDE + size - 1), BAR, 1, 4);
        context.fillStyle = colour;
        context.fillText(words, Math.min(Math.max(x, half), width - half), y);
        taken = x + half;
      }
    }
  }
}
