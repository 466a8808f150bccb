// SPDX-License-Identifier: Apache-2.0
// One measurement, beside the heatmap: a dot for each of its rows, on the scale of its colours.
import {EDGE, inks, sized} from './canvas.js';
import {CODES} from './cells.js';
import {readable} from './data.js';
import {add} from './dom.js';

const SIDE = 12;

export class Profile {
  /** @param on what heatmaps call: `hover`, `pin` and `view` */
  constructor(parent, view, on) {
    Object.assign(this, {view, on, marks: {}});
    this.figure = add(parent, 'figure', {className: 'profile'});
    this.caption = add(this.figure, 'figcaption');
    const holder = add(this.figure, 'div', {className: 'holder'});
    this.canvas = add(holder, 'canvas');
    this.canvas.setAttribute('role', 'img');
    this.above = add(holder, 'canvas', {className: 'overlay'});
    this.listen();
  }

  /**
   * @param runs [{table, column, colour}]: the selected run, and perhaps a second one
   * @param shape {layers, scale, looks, height, time}: what the heatmap is drawn with, and the time in words
   */
  show(runs, {layers, scale, looks, height, time, kind}) {
    Object.assign(this, {runs, layers, scale, looks, height});
    this.column = runs[0].column;
    this.caption.textContent = `at ${time}`;
    this.canvas.setAttribute('aria-label', `profile: the value of each ${kind} at ${time}`);
    this.draw();
  }

  mark(marks) {
    this.marks = marks;
    this.drawMarks();
  }

  get box() {
    const width = this.figure.clientWidth || 150;
    return {left: SIDE, top: EDGE.top, width: width - 2 * SIDE, height: this.height - EDGE.top - EDGE.bottom};
  }

  get span() {
    return this.view.span(1, this.layers.length);
  }

  draw() {
    if (!this.runs) return;
    const {box, span, scale} = this;
    const context = sized(this.canvas, this.figure.clientWidth || 150, this.height);
    const ink = (this.ink = inks());
    this.drawAxis(context, ink);
    const high = box.height / (span.bottom - span.top || 1);
    const size = Math.min(Math.max(high * 0.3, 1), 3.5);
    for (const {table, column, colour} of [...this.runs].reverse()) {
      context.fillStyle = context.strokeStyle = colour;
      for (let row = Math.floor(span.top); row < Math.min(Math.ceil(span.bottom), this.layers.length); row++) {
        const y = box.top + (row + 0.5 - span.top) * high;
        const at = table.rowOf.get(this.layers[row]);
        if (at === undefined || column < 0 || y < box.top || y > box.top + box.height) continue;
        const code = table.codes[at * table.steps.length + column];
        if (code !== CODES.value) {
          this.drawSpecial(context, code, y, high);
          continue;
        }
        const share = scale.share(table.row(at)[column], table.spans?.[column]);
        const x = box.left + Math.min(Math.max(share, 0), 1) * box.width;
        context.beginPath();
        context.arc(x, y, size, 0, 2 * Math.PI);
        // What lies beyond an end of the scale is a ring there.
        if (share < 0 || share > 1) context.stroke();
        else context.fill();
      }
    }
    this.drawMarks();
  }

  /** A cell without a value has its colour at the edge. */
  drawSpecial(context, code, y, high) {
    const look = this.looks[code];
    if (look.name === 'missing') return;
    const before = context.fillStyle;
    const [thick, wide] = [Math.min(Math.max(high * 0.7, 2), 8), look.loud ? 10 : 6];
    context.fillStyle = look.strong;
    context.fillRect(this.box.left - SIDE, y - thick / 2, wide, thick);
    context.lineWidth = 1;
    context.strokeStyle = this.ink.line;
    if (thick > 4) context.strokeRect(this.box.left - SIDE + 0.5, y - thick / 2, wide, thick);
    context.fillStyle = context.strokeStyle = before;
  }

  drawAxis(context, ink) {
    const {box, scale} = this;
    context.textAlign = 'center';
    let taken = -Infinity;
    for (const [value] of scale.ticks) {
      const x = box.left + scale.share(value, 1) * box.width;
      context.fillStyle = ink.line;
      context.fillRect(Math.round(x), box.top, 1, box.height);
      context.fillStyle = ink.text;
      const words = value && Math.abs(value) < 0.01 ? Number(value.toPrecision(2)).toExponential() : readable(value);
      const half = context.measureText(words).width / 2;
      const middle = Math.min(Math.max(x, half), box.width + 2 * SIDE - half);
      if (middle - half < taken + 3) continue;
      context.fillText(words, middle, box.top + box.height + 14);
      taken = middle + half;
    }
    context.fillStyle = ink.text;
    context.fillText(scale.perStep ? 'per step' : 'value', box.left + box.width / 2, box.top + box.height + 28);
  }

  drawMarks() {
    if (!this.runs) return;
    const {box, span} = this;
    const context = sized(this.above, this.figure.clientWidth || 150, this.height);
    const high = box.height / (span.bottom - span.top || 1);
    context.fillStyle = inks().text;
    for (const layer of [...(this.marks.pins ?? []), this.marks.hover]) {
      const row = this.layers.indexOf(layer);
      const y = box.top + (row - span.top) * high;
      if (row < 0 || y < box.top - high || y > box.top + box.height) continue;
      context.globalAlpha = layer === this.marks.hover ? 0.22 : 0.12;
      context.fillRect(0, y, box.width + 2 * SIDE, Math.max(high, 2));
    }
  }

  rowAt(y) {
    const {box, span} = this;
    const down = (y - box.top) / box.height;
    return down >= 0 && down < 1 ? this.layers[Math.floor(span.top + down * (span.bottom - span.top))] : undefined;
  }

  listen() {
    const {canvas} = this;
    canvas.addEventListener('pointermove', (event) => {
      const layer = this.runs && this.rowAt(event.offsetY);
      this.on.hover(layer === undefined ? null : {layer, column: this.column});
    });
    canvas.addEventListener('pointerleave', () => this.on.hover(null));
    canvas.addEventListener('click', (event) => {
      const layer = this.rowAt(event.offsetY);
      if (layer !== undefined) this.on.pin(layer);
    });
    canvas.addEventListener(
      'wheel',
      (event) => {
        event.preventDefault();
        const share = (event.offsetY - this.box.top) / this.box.height;
        this.view.zoom(event.deltaY < 0 ? 0.8 : 1.25, 0.5, share, {columns: false});
        this.on.view();
      },
      {passive: false},
    );
  }
}
