// SPDX-License-Identifier: Apache-2.0
// Layers × measurements on a canvas: names at the left, zoom and pan in the map. A canvas above holds what moves.
import {EDGE, FONT, inks, sized} from './canvas.js';
import {readable} from './data.js';
import {add} from './dom.js';
import {raster} from './raster.js';
import {shapeOf} from './readout.js';
import {blockStarts, fit} from './rows.js';
import {paint} from './scales.js';

const [RIGHT, OPENS, MARKS] = [10, 16, 12];

export class Heatmap {
  /**
   * @param view a View, which other maps may share
   * @param on.hover called with {layer, column} or null
   * @param on.pin called with a layer
   * @param on.select called with a column
   * @param on.open called with a layer, to show its units
   * @param on.close called to go back to all layers
   * @param on.view called when `view` has changed
   */
  constructor(parent, view, on) {
    Object.assign(this, {view, on, cursor: null, marks: {}});
    this.figure = add(parent, 'figure', {className: 'heatmap'});
    this.caption = add(this.figure, 'figcaption');
    const holder = add(this.figure, 'div', {className: 'holder'});
    this.canvas = add(holder, 'canvas', {className: 'map', tabIndex: 0});
    this.canvas.setAttribute('role', 'application');
    this.above = add(holder, 'canvas', {className: 'overlay'});
    this.listen();
  }

  /**
   * Show `layers` of `table` over `axis`; `scale` is of scales.js, `looks` of cells.js.
   *
   * @param shape {names, kind, opens, found}: whether names are drawn, what a row is, the layers that have units,
   *   and {rows, columns} with findings
   */
  show({table, axis, layers, scale, looks, title, height, names, kind = 'layer', opens = new Set(), found = NOTHING}) {
    Object.assign(this, {table, axis, layers, looks, height, names, kind, opens, found});
    this.caption.textContent = title;
    const open = opens.size ? ' U shows the units of a layer.' : '';
    this.canvas.setAttribute(
      'aria-label',
      `${title}: heatmap of ${layers.length} ${kind}s and ${table.steps.length} measurements. Arrow keys move, Enter ` +
        `pins a ${kind}, space selects a measurement, plus, minus and 0 zoom.` +
        (kind === 'unit' ? ' Escape goes back to all layers.' : open),
    );
    this.cells = {columns: table.steps.length, codes: table.codesOf(layers), colours: paint(table, layers, scale)};
    this.starts = blockStarts(layers, (layer) => table.blockOf(layer));
    this.draw();
  }

  /** Highlight rows, the column of the selected measurement, and a cell. */
  mark(marks) {
    this.marks = marks;
    this.drawMarks();
  }

  get width() {
    return this.figure.clientWidth || 300;
  }

  get gutter() {
    return (this.opens.size ? OPENS : 0) + (this.found.rows.size ? MARKS : 0) + 5;
  }

  get box() {
    const longest = this.kind === 'unit' ? 14 + 7 * Math.max(...this.layers.map((name) => name.length)) : Infinity;
    const left = this.names ? Math.round(Math.min(190, 0.34 * this.width, Math.max(longest, 40))) : 6;
    const height = this.height - EDGE.top - EDGE.bottom;
    return {left, top: EDGE.top, width: Math.max(this.width - left - RIGHT, 10), height};
  }

  get span() {
    return this.view.span(this.table.steps.length, this.layers.length);
  }

  /** The size of a cell. */
  get cell() {
    const {box, span} = this;
    return {wide: box.width / (span.right - span.left || 1), high: box.height / (span.bottom - span.top || 1)};
  }

  draw() {
    if (!this.table) return;
    const context = sized(this.canvas, this.width, this.height);
    // Panning the page with a finger must stay possible while there is nothing to pan in the map.
    this.canvas.style.touchAction = this.view.whole ? 'pan-y' : 'none';
    const ink = inks();
    const {box, span, looks} = this;
    const ratio = window.devicePixelRatio || 1;
    const size = {width: Math.round(box.width * ratio), height: Math.round(box.height * ratio), ratio};
    if (this.layers.length && this.table.steps.length) {
      const pixels = raster(this.cells, span, size, looks);
      const image = new ImageData(new Uint8ClampedArray(pixels.buffer), size.width, size.height);
      context.putImageData(image, Math.round(box.left * ratio), Math.round(box.top * ratio));
    }
    context.strokeStyle = ink.line;
    context.strokeRect(box.left - 0.5, box.top - 0.5, box.width + 1, box.height + 1);
    this.drawBlocks(context, ink);
    if (this.names) this.drawNames(context, ink);
    this.drawTimes(context, ink);
    this.drawMarks();
  }

  drawBlocks(context, ink) {
    const {box, span, cell} = this;
    // Lines that are close to each other would hide what they divide.
    if (cell.high * this.layers.length < 14 * this.starts.length) return;
    for (const row of this.starts) {
      const y = Math.round(box.top + (row - span.top) * cell.high) - 0.5;
      if (y < box.top || y > box.top + box.height) continue;
      context.fillStyle = ink.ground;
      context.fillRect(box.left, y, box.width, 1);
      context.fillStyle = ink.line;
      if (this.names) context.fillRect(box.left - this.gutter, y, this.gutter, 1);
    }
  }

  drawNames(context, ink) {
    const {box, span, cell, found} = this;
    const every = Math.max(1, Math.ceil(11 / cell.high));
    for (let row = Math.floor(span.top); row < Math.min(Math.ceil(span.bottom), this.layers.length); row++) {
      const y = box.top + (row + 0.5 - span.top) * cell.high;
      if (y < box.top || y > box.top + box.height) continue;
      const layer = this.layers[row];
      if (found.rows.has(layer)) {
        context.fillStyle = ink.finding;
        const high = Math.min(Math.max(cell.high - 2, 2), 9);
        context.fillRect(box.left - MARKS + 2, y - high / 2, 6, high);
      }
      if (row % every === 0) this.drawName(context, ink, row, y, false);
    }
  }

  drawName(context, ink, row, y, lit) {
    const {box, cell, opens, found} = this;
    const layer = this.layers[row];
    const middle = Math.max(y, box.top + 4);
    context.textAlign = 'right';
    context.fillStyle = lit ? ink.text : ink.faint;
    context.font = FONT.replace('11px', `${lit ? 'bold ' : ''}${Math.max(9, Math.min(12, cell.high))}px`);
    const right = box.left - this.gutter;
    const width = (text) => context.measureText(text).width;
    context.fillText(fit(this.table.shortOf(layer), right - 3, width), right, middle);
    if (!opens.has(layer)) return;
    context.fillStyle = ink.accent;
    context.fillText('▸', box.left - (found.rows.size ? MARKS : 0) - 5, middle);
  }

  drawTimes(context, ink) {
    const {box, span, cell, found, axis} = this;
    const values = this.table.times(axis);
    context.fillStyle = ink.text;
    context.font = FONT;
    context.textAlign = 'center';
    const bottom = box.top + box.height;
    const every = roundUp(46 / cell.wide);
    const end = Math.min(span.right, values.length);
    for (let column = Math.ceil(span.left / every) * every; column < end; column += every) {
      const x = box.left + (column + 0.5 - span.left) * cell.wide;
      if (x < box.left + box.width) context.fillText(readable(values[column]), x, bottom + 14);
    }
    context.fillText(axis, box.left + box.width / 2, bottom + 28);
    context.fillStyle = ink.finding;
    for (const column of found.columns) {
      const x = box.left + (column + 0.5 - span.left) * cell.wide;
      if (x < box.left || x > box.left + box.width) continue;
      context.beginPath();
      context.moveTo(x, bottom + 1);
      context.lineTo(x - 4, bottom + 8);
      context.lineTo(x + 4, bottom + 8);
      context.fill();
    }
  }

  drawMarks() {
    if (!this.table) return;
    const context = sized(this.above, this.width, this.height);
    const ink = inks();
    const {box, span, cell} = this;
    const {hover, pins = [], column = -1, time = null} = this.marks;
    const at = this.layers.indexOf(hover);
    if (this.names && at >= Math.floor(span.top) && at < span.bottom) {
      const y = box.top + (at + 0.5 - span.top) * cell.high;
      context.fillStyle = ink.ground;
      context.fillRect(0, y - 7, box.left - this.gutter + 1, 14);
      this.drawName(context, ink, at, y, true);
    }
    context.beginPath();
    context.rect(box.left, box.top, box.width, box.height);
    context.clip();
    const frame = (x, y, wide, high, width) => {
      // A dark line on a light one is seen on every colour.
      for (const [colour, line] of [['#fff', width + 2], ['#000', width]]) {
        Object.assign(context, {strokeStyle: colour, lineWidth: line});
        context.strokeRect(x, y, wide, high);
      }
    };
    const rowAt = new Map(this.layers.map((layer, row) => [layer, row]));
    const rows = (first, last, width) => {
      const high = Math.max((last - first + 1) * cell.high, 1);
      frame(box.left - 2, box.top + (first - span.top) * cell.high, box.width + 4, high, width);
    };
    const pinned = pins.map((layer) => rowAt.get(layer)).filter((row) => row !== undefined);
    for (const [first, last] of runs(pinned)) rows(first, last, 1);
    if (at >= 0) rows(at, at, 1.5);
    const columnAt = (index) => box.left + (index - span.left) * cell.wide;
    if (column >= 0) frame(columnAt(column), box.top - 2, Math.max(cell.wide, 1), box.height + 4, 1);
    if (at >= 0 && time !== null) {
      frame(columnAt(time), box.top + (at - span.top) * cell.high, Math.max(cell.wide, 3), Math.max(cell.high, 3), 1.5);
    }
  }

  /** What is at a place on the canvas: {part, layer, column}; part is 'name', 'opens', 'cell' or 'time'. */
  at(x, y) {
    const {box, span} = this;
    const [across, down] = [(x - box.left) / box.width, (y - box.top) / box.height];
    if (across >= 1 || down < 0 || !this.layers.length) return null;
    const column = Math.min(
      Math.floor(span.left + Math.max(across, 0) * (span.right - span.left)),
      this.table.steps.length - 1,
    );
    if (down >= 1) return across >= 0 ? {part: 'time', column} : null;
    const layer = this.layers[Math.floor(span.top + down * (span.bottom - span.top))];
    if (layer === undefined) return null;
    if (across >= 0) return {part: 'cell', layer, column};
    const opens = this.opens.has(layer) && x > box.left - this.gutter - 4;
    return this.names ? {part: opens ? 'opens' : 'name', layer, column} : null;
  }

  listen() {
    const {canvas, view} = this;
    const touches = new Map();
    let drag = null;
    const place = (event) => [event.offsetX, event.offsetY];
    const share = ([x, y]) => [(x - this.box.left) / this.box.width, (y - this.box.top) / this.box.height];
    const lift = (event) => {
      touches.delete(event.pointerId);
      // After a pinch, the finger that remains moves what it has left.
      const [from] = touches.values();
      drag = from ? {from, view: view.save(), moved: true} : null;
    };
    canvas.addEventListener('pointerdown', (event) => {
      touches.set(event.pointerId, place(event));
      drag = {from: place(event), view: view.save(), moved: touches.size > 1};
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener('pointermove', (event) => {
      if (!this.table) return;
      if (touches.size === 2) return this.pinch(touches, event, share);
      const there = this.at(...place(event));
      canvas.style.cursor = there && there.part !== 'cell' ? 'pointer' : '';
      const named = there?.part === 'name' ? [there.layer, shapeOf(this.table, there.layer)] : [];
      canvas.title = named.filter(Boolean).join('\n');
      if (!drag) return this.on.hover(there?.layer === undefined ? null : {layer: there.layer, column: there.column});
      const [dx, dy] = [event.offsetX - drag.from[0], event.offsetY - drag.from[1]];
      drag.moved ||= Math.hypot(dx, dy) > 4;
      if (!drag.moved) return;
      view.move(-dx / this.box.width, -dy / this.box.height, drag.view);
      this.on.view();
    });
    canvas.addEventListener('pointerup', (event) => {
      const there = drag && !drag.moved && this.table && this.at(...place(event));
      lift(event);
      if (there) this.press(there);
    });
    canvas.addEventListener('pointercancel', lift);
    canvas.addEventListener('pointerleave', (event) => event.pointerType === 'mouse' && !drag && this.on.hover(null));
    canvas.addEventListener('dblclick', () => this.zoom(0));
    canvas.addEventListener(
      'wheel',
      (event) => {
        event.preventDefault();
        const [x, y] = share(place(event));
        this.zoom(event.deltaY < 0 ? 0.8 : 1.25, x, y, {rows: !event.shiftKey, columns: !event.altKey});
      },
      {passive: false},
    );
    canvas.addEventListener('keydown', (event) => this.key(event));
    canvas.addEventListener('blur', () => this.on.hover(null));
  }

  press({part, layer, column}) {
    if (part === 'opens') return this.on.open(layer);
    if (part === 'name') return this.on.pin(layer);
    if (layer !== undefined) this.on.hover((this.cursor = {layer, column}));
    this.on.select(column);
  }

  /** Two fingers zoom. */
  pinch(touches, event, share) {
    const apart = () => {
      const [a, b] = [...touches.values()];
      return Math.max(Math.hypot(a[0] - b[0], a[1] - b[1]), 1);
    };
    const before = apart();
    touches.set(event.pointerId, [event.offsetX, event.offsetY]);
    const [a, b] = [...touches.values()];
    this.zoom(before / apart(), ...share([(a[0] + b[0]) / 2, (a[1] + b[1]) / 2]));
  }

  key(event) {
    const now = this.cursor && this.layers.includes(this.cursor.layer) ? this.cursor : null;
    const row = now ? this.layers.indexOf(now.layer) : 0;
    const column = now ? now.column : Math.max(this.table.steps.length - 1, 0);
    const to = (nextRow, nextColumn) => this.moveTo(nextRow, nextColumn);
    const keys = {
      ArrowUp: () => to(now ? row - 1 : row, column),
      ArrowDown: () => to(now ? row + 1 : row, column),
      ArrowLeft: () => to(row, column - 1),
      ArrowRight: () => to(row, column + 1),
      Enter: () => now && this.on.pin(now.layer),
      ' ': () => now && this.on.select(now.column),
      u: () => now && this.opens.has(now.layer) && this.on.open(now.layer),
      Escape: () => this.kind === 'unit' && this.on.close(),
      '+': () => this.zoom(0.8),
      '-': () => this.zoom(1.25),
      0: () => this.zoom(0),
    };
    const act = keys[event.key] ?? keys[event.key.toLowerCase()];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  }

  /** Put the cursor on a cell, and bring that into view. */
  moveTo(row, column) {
    const [rows, columns] = [this.layers.length, this.table.steps.length];
    const clamp = (value, count) => Math.min(Math.max(value, 0), count - 1);
    const [y, x] = [clamp(row, rows), clamp(column, columns)];
    if (this.layers[y] === undefined) return;
    this.cursor = {layer: this.layers[y], column: x};
    if (!this.view.whole) {
      this.view.revealRows(y / rows, (y + 1) / rows);
      this.view.revealColumns(x / columns, (x + 1) / columns);
      this.on.view();
    }
    this.on.hover(this.cursor);
  }

  /** Zoom; by 0 to everything. */
  zoom(factor, x, y, only) {
    if (factor) this.view.zoom(factor, x, y, only);
    else this.view.reset();
    this.on.view();
  }
}

const NOTHING = {rows: new Set(), columns: []};

/** The first and last of each run of neighbours among numbers. */
export function runs(numbers) {
  const found = [];
  for (const number of [...numbers].sort((a, b) => a - b)) {
    if (found.length && found.at(-1)[1] === number - 1) found.at(-1)[1] = number;
    else found.push([number, number]);
  }
  return found;
}

/** The next of 1, 2, 5, 10, 20, … */
function roundUp(number) {
  const power = 10 ** Math.floor(Math.log10(Math.max(number, 1)));
  return power * [1, 2, 5, 10].find((step) => step * power >= number);
}
