// SPDX-License-Identifier: Apache-2.0
// Layers × measurements on a canvas: names at the left, a colour bar at the right, zoom and pan in between.
import {barColour, paint} from './colours.js';
import {readable} from './data.js';

const [TOP, BOTTOM, BAR] = [4, 34, 64];

export class Heatmap {
  /**
   * @param on.hover called with {layer, column} or null
   * @param on.pin called with a layer
   * @param on.select called with a column
   * @param on.open called with a layer, to show its units
   * @param on.close called to go back to all layers
   * @param on.view called when the shared `view` has changed
   */
  constructor(parent, view, on) {
    this.view = view;
    this.on = on;
    this.figure = parent.appendChild(document.createElement('figure'));
    this.caption = this.figure.appendChild(document.createElement('figcaption'));
    this.canvas = this.figure.appendChild(document.createElement('canvas'));
    this.canvas.className = 'map';
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute('role', 'application');
    this.cells = document.createElement('canvas');
    this.cursor = null;
    this.listen();
  }

  /**
   * Show `layers` of `table` over `axis`; `scale` is of colours.js.
   * @param shape {row, opens}: what a row is, 'layer' or 'unit', and the set of layers that have units
   */
  show({table, axis, layers, scale, title, names, dark, height, row: kind = 'layer', opens = new Set()}) {
    Object.assign(this, {table, axis, layers, scale, names, dark, height, kind, opens});
    this.caption.textContent = title;
    const open = opens.size ? ' U shows the units of a layer.' : '';
    const further = kind === 'unit' ? ' Escape goes back to all layers.' : open;
    this.canvas.setAttribute(
      'aria-label',
      `${title}: heatmap of ${layers.length} ${kind}s and ${table.steps.length} measurements. ` +
        `Arrow keys move, Enter pins a ${kind}, space selects a measurement, plus, minus and 0 zoom.${further}`,
    );
    const [rows, columns] = [layers.length, table.steps.length];
    this.cells.width = Math.max(columns, 1);
    this.cells.height = Math.max(rows, 1);
    const context = this.cells.getContext('2d');
    const image = context.createImageData(this.cells.width, this.cells.height);
    layers.forEach((layer, row) => {
      table.row(table.rowOf.get(layer)).forEach((value, column) => {
        const colour = paint(scale, value);
        if (colour) image.data.set([...colour, 255], 4 * (row * columns + column));
      });
    });
    context.putImageData(image, 0, 0);
    this.draw();
  }

  /** Highlight a layer and the column of the selected measurement. */
  mark({hover, column, pins}) {
    Object.assign(this, {hover, column, pins});
    this.draw();
  }

  get box() {
    const longest = this.kind === 'unit' ? 14 + 7 * Math.max(...this.layers.map((name) => name.length)) : Infinity;
    const left = this.names ? Math.min(190, 0.34 * this.width, Math.max(longest, 40)) : 6;
    return {left, top: TOP, width: Math.max(this.width - left - BAR, 10), height: this.height - TOP - BOTTOM};
  }

  get width() {
    return this.canvas.clientWidth || 300;
  }

  /** The visible range of columns and rows. */
  get span() {
    const {x0, x1, y0, y1} = this.view;
    const [columns, rows] = [this.table.steps.length, this.layers.length];
    return {left: x0 * columns, right: x1 * columns, top: y0 * rows, bottom: y1 * rows};
  }

  draw() {
    if (!this.table) return;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.style.height = `${this.height}px`;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    const context = this.canvas.getContext('2d');
    context.scale(ratio, ratio);
    const style = getComputedStyle(document.documentElement);
    const [text, faint, accent] = ['--text', '--faint', '--accent'].map((name) => style.getPropertyValue(name));
    const {box, span} = this;
    context.imageSmoothingEnabled = false;
    context.fillStyle = this.dark ? '#000' : '#fff';
    context.fillRect(box.left, box.top, box.width, box.height);
    if (this.layers.length) {
      const [width, height] = [span.right - span.left, span.bottom - span.top];
      context.drawImage(this.cells, span.left, span.top, width, height, box.left, box.top, box.width, box.height);
    }
    context.font = '11px Roboto, system-ui, sans-serif';
    context.textBaseline = 'middle';
    if (this.names) this.drawNames(context, {text, faint, accent});
    this.drawTimes(context, text);
    this.drawBar(context, text);
    this.drawMarks(context, text);
  }

  drawNames(context, {text, faint, accent}) {
    const {box, span} = this;
    const rowHeight = box.height / (span.bottom - span.top || 1);
    const every = Math.max(1, Math.ceil(11 / rowHeight));
    context.textAlign = 'right';
    for (let row = Math.floor(span.top); row < Math.min(Math.ceil(span.bottom), this.layers.length); row++) {
      const y = box.top + (row + 0.5 - span.top) * rowHeight;
      const lit = this.layers[row] === this.hover;
      if ((row % every && !lit) || y < box.top || y > box.top + box.height) continue;
      const middle = Math.max(y, box.top + 4);
      const opens = this.opens.has(this.layers[row]);
      context.fillStyle = opens ? accent : lit ? text : faint;
      context.font = `${lit ? 'bold ' : ''}${Math.max(8, Math.min(12, rowHeight))}px Roboto, system-ui, sans-serif`;
      if (opens) context.fillText('▸', box.left - 3, middle);
      const right = box.left - (this.opens.size ? 14 : 5);
      context.fillText(fit(context, this.layers[row], right - 5), right, middle);
    }
  }

  drawTimes(context, text) {
    const {box, span} = this;
    const values = this.table.times(this.axis);
    context.fillStyle = text;
    context.font = '11px Roboto, system-ui, sans-serif';
    context.textAlign = 'center';
    const columnWidth = box.width / (span.right - span.left || 1);
    const every = roundUp(46 / columnWidth);
    const end = Math.min(span.right, values.length);
    for (let column = Math.ceil(span.left / every) * every; column < end; column += every) {
      const x = box.left + (column + 0.5 - span.left) * columnWidth;
      if (x < box.left + box.width) context.fillText(readable(values[column]), x, box.top + box.height + 9);
    }
    context.fillText(this.axis, box.left + box.width / 2, box.top + box.height + 25);
  }

  drawBar(context, text) {
    const {box, scale} = this;
    const left = box.left + box.width + 8;
    for (let y = 0; y < box.height; y++) {
      context.fillStyle = barColour(scale, 1 - y / (box.height - 1));
      context.fillRect(left, box.top + y, 10, 1.5);
    }
    context.fillStyle = text;
    context.textAlign = 'left';
    for (const [value, word] of scale.ticks ?? ticks(scale).map((value) => [value, readable(value)])) {
      const y = box.top + (1 - scale.share(value)) * box.height;
      context.fillText(word, left + 13, Math.min(Math.max(y, box.top + 6), box.top + box.height - 6));
    }
  }

  drawMarks(context, text) {
    const {box, span} = this;
    const [cell, line] = [box.width / (span.right - span.left || 1), box.height / (span.bottom - span.top || 1)];
    context.save();
    context.beginPath();
    context.rect(box.left, box.top, box.width, box.height);
    context.clip();
    context.strokeStyle = text;
    for (const layer of [...(this.pins || []), this.hover]) {
      const row = this.layers.indexOf(layer);
      context.lineWidth = layer === this.hover ? 2 : 1;
      if (row >= 0) context.strokeRect(box.left - 2, box.top + (row - span.top) * line, box.width + 4, line);
    }
    if (this.column >= 0) {
      context.lineWidth = 1;
      context.strokeRect(box.left + (this.column - span.left) * cell, box.top - 2, cell, box.height + 4);
    }
    context.restore();
  }

  /** The cell at a position on the canvas, or null. */
  at(x, y) {
    const {box, span} = this;
    const across = (x - box.left) / box.width;
    const down = (y - box.top) / box.height;
    if (across >= 1 || down < 0 || down >= 1 || !this.layers.length) return null;
    const column = Math.floor(span.left + Math.max(across, 0) * (span.right - span.left));
    const layer = this.layers[Math.floor(span.top + down * (span.bottom - span.top))];
    return layer === undefined ? null : {layer, column: Math.min(column, this.table.steps.length - 1)};
  }

  /** The layer with units whose name is at a position on the canvas, or null. */
  openAt(x, y) {
    const cell = this.names && x < this.box.left ? this.at(x, y) : null;
    return cell && this.opens.has(cell.layer) ? cell.layer : null;
  }

  listen() {
    const {canvas} = this;
    let drag = null;
    const share = (event) => {
      const {box} = this;
      return [(event.offsetX - box.left) / box.width, (event.offsetY - box.top) / box.height];
    };
    canvas.addEventListener('pointerdown', (event) => {
      drag = {x: event.offsetX, y: event.offsetY, view: {...this.view}, moved: false};
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener('pointermove', (event) => {
      if (!this.table) return;
      const name = this.openAt(event.offsetX, event.offsetY);
      canvas.style.cursor = name === null ? '' : 'pointer';
      if (!drag) return this.on.hover(this.at(event.offsetX, event.offsetY));
      const [dx, dy] = [event.offsetX - drag.x, event.offsetY - drag.y];
      drag.moved ||= Math.hypot(dx, dy) > 4;
      if (drag.moved) {
        const {x0, x1, y0, y1} = drag.view;
        this.move((-dx / this.box.width) * (x1 - x0), (-dy / this.box.height) * (y1 - y0), drag.view);
      }
    });
    canvas.addEventListener('pointerup', (event) => {
      const cell = drag && !drag.moved && this.at(event.offsetX, event.offsetY);
      drag = null;
      const name = cell ? this.openAt(event.offsetX, event.offsetY) : null;
      if (name !== null) {
        this.on.open(name);
      } else if (cell) {
        this.on.select(cell.column);
        this.on.pin(cell.layer);
      }
    });
    canvas.addEventListener('pointerleave', () => !drag && this.on.hover(null));
    canvas.addEventListener('dblclick', () => this.zoom(0));
    canvas.addEventListener(
      'wheel',
      (event) => {
        event.preventDefault();
        this.zoom(event.deltaY < 0 ? 0.8 : 1.25, ...share(event), event.shiftKey, event.altKey);
      },
      {passive: false},
    );
    canvas.addEventListener('keydown', (event) => this.key(event));
    canvas.addEventListener('blur', () => this.on.hover(null));
  }

  key(event) {
    const now = this.cursor && this.layers.includes(this.cursor.layer) ? this.cursor : null;
    const row = now ? this.layers.indexOf(now.layer) : 0;
    const column = now ? now.column : Math.max(this.table.steps.length - 1, 0);
    const to = (nextRow, nextColumn) => {
      const clamp = (value, count) => Math.min(Math.max(value, 0), count - 1);
      const layer = this.layers[clamp(nextRow, this.layers.length)];
      if (layer !== undefined) this.cursor = {layer, column: clamp(nextColumn, this.table.steps.length)};
      this.on.hover(this.cursor);
    };
    const keys = {
      ArrowUp: () => to(now ? row - 1 : row, column),
      ArrowDown: () => to(now ? row + 1 : row, column),
      ArrowLeft: () => to(row, column - 1),
      ArrowRight: () => to(row, column + 1),
      Enter: () => now && this.on.pin(now.layer),
      ' ': () => now && this.on.select(now.column),
      u: () => now && this.opens.has(now.layer) && this.on.open(now.layer),
      Escape: () => this.kind === 'unit' && this.on.close(),
      '+': () => this.zoom(0.8, 0.5, 0.5),
      '-': () => this.zoom(1.25, 0.5, 0.5),
      0: () => this.zoom(0),
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  }

  zoom(factor, x = 0.5, y = 0.5, timeOnly = false, layersOnly = false) {
    const {view} = this;
    const along = (low, high, share) => {
      if (!factor) return [0, 1];
      const size = Math.min((high - low) * factor, 1);
      const start = Math.min(Math.max(low + share * (high - low - size), 0), 1 - size);
      return [start, start + size];
    };
    if (!layersOnly) [view.x0, view.x1] = along(view.x0, view.x1, x);
    if (!timeOnly) [view.y0, view.y1] = along(view.y0, view.y1, y);
    this.on.view();
  }

  move(dx, dy, from) {
    const shift = (low, high, by) => Math.min(Math.max(by, -low), 1 - high);
    const [x, y] = [shift(from.x0, from.x1, dx), shift(from.y0, from.y1, dy)];
    Object.assign(this.view, {x0: from.x0 + x, x1: from.x1 + x, y0: from.y0 + y, y1: from.y1 + y});
    this.on.view();
  }
}

/** The next of 1, 2, 5, 10, 20, … */
function roundUp(number) {
  const power = 10 ** Math.floor(Math.log10(Math.max(number, 1)));
  return power * [1, 2, 5, 10].find((step) => step * power >= number);
}

/** The end of a name matters most: `…blocks.3.conv2`. */
function fit(context, name, width) {
  let text = name.length > 80 ? `…${name.slice(-79)}` : name;
  while (text.length > 2 && context.measureText(text).width > width) text = `…${text.slice(2 + (text.length >> 4))}`;
  return text;
}

function ticks({low, high, logarithmic}) {
  if (!logarithmic) return [0, 0.25, 0.5, 0.75, 1].map((share) => low + share * (high - low));
  const steps = high / low > 1000 ? [1] : [1, 2, 5];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const step of steps) found.push(step * 10 ** power);
  }
  const inside = found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  return inside.length ? inside : [low, high];
}
