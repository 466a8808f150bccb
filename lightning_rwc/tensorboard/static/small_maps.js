// SPDX-License-Identifier: Apache-2.0
// Many runs at once: a small heatmap of each, all on one scale, over one x axis, and with the same rows.
import {align, chosen, project} from './align.js';
import {inks, sized} from './canvas.js';
import {CODES} from './cells.js';
import {ColourBar} from './colourbar.js';
import {readable} from './data.js';
import {add} from './dom.js';
import {Key} from './key.js';
import {raster} from './raster.js';
import {paint} from './scales.js';
import {commonPath, mean, rowsOf, together} from './sweep.js';

const MOST_COLUMNS = 400;

export class SmallMaps {
  /**
   * @param on.open called with a group
   * @param on.say called with what is under the pointer, in parts, or with []
   */
  constructor(parent, on) {
    this.on = on;
    /** All maps in one line. */
    this.summary = '';
    this.bar = new ColourBar(parent);
    Object.assign(this.bar.figure, {id: '', className: 'colours'});
    this.grid = add(parent, 'div', {id: 'smallMaps'});
    this.key = new Key(parent);
    Object.assign(this.key.element, {id: '', className: 'key'});
    this.maps = [];
  }

  /**
   * Draw a map of each of `groups`.
   *
   * @param groups [{name, runs}] in order
   * @param tableOf the table of a run, or undefined while it is not there
   * @param shape {by, keep, scaleOf, looks, wordsOf, scalar, values, left}: what to align by, which of some layers are
   *   shown, the scale for some tables and layers, how cells are drawn and what they mean, the chosen scalar with its
   *   values, and how many runs are left out
   */
  show(groups, tableOf, shape) {
    const found = groups
      .map((group) => ({...group, tables: group.runs.map(tableOf).filter(Boolean)}))
      .filter(({tables}) => tables.length);
    const all = found.flatMap(({tables}) => tables);
    const axis = align(all, chosen(all, shape.by), MOST_COLUMNS);
    const families = rowsOf(all);
    const kept = new Map([...new Set(families)].map((rows) => [rows, shape.keep(rows)]));
    const path = commonPath(found.map(({name}) => name));
    const scale = all.length ? shape.scaleOf(all, [...kept.values()].flat()) : null;
    this.axis = {tables: all, by: axis.by};
    let run = 0;
    const drawn = found.map((group) => {
      const from = run;
      run += group.tables.length;
      const rows = kept.get(families[from]);
      const tables = group.tables.map((table, index) => project(table, axis.at[from + index], axis.x, rows));
      const table = tables.length > 1 ? together(tables) : tables[0];
      return {group, table, rows, title: group.name.slice(path.length)};
    });
    while (this.maps.length < drawn.length) this.maps.push(new SmallMap(this.grid, this));
    this.maps.splice(drawn.length).forEach((map) => map.figure.remove());
    const height = Math.min(Math.max(3 * Math.max(1, ...drawn.map(({rows}) => rows.length)), 70), 180);
    drawn.forEach((one, index) => this.maps[index].show({...one, ...shape, scale, axis, height}));
    this.summary = summary(found, all.length, axis, kept, {...shape, path});
    this.bar.figure.hidden = this.key.element.hidden = !all.length;
    if (!all.length) return;
    this.bar.show(scale);
    const codes = Uint8Array.from(new Set(drawn.flatMap(({table}) => [...new Set(table.codes)])));
    this.key.show({codes, looks: shape.looks, words: all[0].words, findings: 0, opens: 0});
  }

  /** Highlight the same layer and column in all maps. */
  mark(cell) {
    for (const map of this.maps) map.mark(cell);
  }
}

/** The map of one run, or of a group of runs. */
class SmallMap {
  constructor(parent, owner) {
    this.figure = add(parent, 'figure', {className: 'small'});
    const caption = add(this.figure, 'figcaption');
    this.button = add(caption, 'button', {type: 'button'});
    this.note = add(caption, 'span');
    const holder = add(this.figure, 'div', {className: 'holder'});
    this.canvas = add(holder, 'canvas');
    this.above = add(holder, 'canvas', {className: 'overlay'});
    const open = () => owner.on.open(this.group);
    this.button.addEventListener('click', open);
    this.canvas.addEventListener('click', open);
    const point = (cell) => {
      owner.mark(cell);
      owner.on.say(cell ? this.words(cell) : []);
    };
    this.canvas.addEventListener('pointermove', (event) => point(this.at(event.offsetX, event.offsetY)));
    this.canvas.addEventListener('pointerleave', () => point(null));
  }

  show({group, table, rows, title, scale, axis, height, looks, wordsOf, scalar, values}) {
    Object.assign(this, {group, table, rows, axis, height, looks, wordsOf, columns: axis.x.length});
    const several = group.runs.length > 1;
    this.button.textContent = title;
    this.button.title = several ? group.runs.join('\n') : group.name;
    const number = mean(group, values);
    const parts = [...(several ? [`${group.runs.length} runs`] : []), ...(scalar ? [readable(number)] : [])];
    this.note.textContent = parts.join(' · ');
    this.canvas.setAttribute('role', 'img');
    const what = several ? 'geometric mean of its runs' : 'one run';
    this.canvas.setAttribute('aria-label', `${group.name}: ${what}, ${rows.length} layers over ${axis.name}`);
    this.cells = {columns: this.columns, codes: table.codesOf(rows), colours: paint(table, rows, scale)};
    this.draw();
  }

  get width() {
    return Math.floor(this.figure.clientWidth) || 200;
  }

  draw() {
    const {width, height, columns, rows} = this;
    const context = sized(this.canvas, width, height);
    const ratio = window.devicePixelRatio || 1;
    const size = {width: Math.round(width * ratio), height: Math.round(height * ratio), ratio};
    if (columns && rows.length) {
      const span = {left: 0, right: columns, top: 0, bottom: rows.length};
      const pixels = raster({...this.cells, rows: rows.length}, span, size, this.looks);
      context.putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), size.width, size.height), 0, 0);
    }
    this.mark(null);
  }

  mark(cell) {
    const row = cell ? this.rows.indexOf(cell.layer) : -1;
    if (row < 0 && !this.marked) return;
    this.marked = row >= 0;
    const {width, height} = this;
    const context = sized(this.above, width, height);
    if (row < 0) return;
    const [wide, high] = [width / this.columns, height / this.rows.length];
    const {ground, text} = inks();
    context.strokeStyle = text;
    context.strokeRect(-2, row * high, width + 4, high);
    // Around the cell, so that it stays visible.
    for (const [colour, line] of [[ground, 3], [text, 1]]) {
      Object.assign(context, {strokeStyle: colour, lineWidth: line});
      context.strokeRect(cell.column * wide - 1.5, row * high - 1.5, wide + 3, high + 3);
    }
  }

  at(x, y) {
    const column = Math.floor((x / this.width) * this.columns);
    const layer = this.rows[Math.floor((y / this.height) * this.rows.length)];
    return layer === undefined || !(column >= 0 && column < this.columns) ? null : {layer, column};
  }

  /** What a cell says, in parts. */
  words({layer, column}) {
    const {table, group, axis} = this;
    const row = table.rowOf.get(layer);
    const [epoch, step] = [table.epochs[column], table.steps[column]];
    const several = group.runs.length > 1;
    const own = [...(epoch === null ? [] : [`epoch ${epoch}`]), `step ${step}`];
    const time = several || step === null ? [`${axis.name} ${readable(axis.x[column])}`] : own;
    const head = [several ? `${group.name} (${group.runs.length} runs)` : group.name, layer, ...time];
    const index = row * this.columns + column;
    const value = table.values[index];
    if (table.codes[index] === CODES.missing) return [...head, 'not measured'];
    const words = this.wordsOf(table, table.codes[index]);
    if (!several || !Number.isFinite(table.low[index])) {
      return [...head, ...(words.startsWith(readable(value)) ? [] : [readable(value)]), ...(words ? [words] : [])];
    }
    const [low, high] = [table.low[index], table.high[index]];
    const times = low > 0 ? `, ×${readable(Number((high / low).toPrecision(2)))}` : '';
    const range = `${readable(low)} to ${readable(high)}${times}`;
    return [...head, `mean ${readable(value)}`, range, ...(words ? [words] : [])];
  }
}

/** One line on all maps. */
function summary(groups, runs, axis, kept, {scalar, left, path}) {
  if (!runs) return 'No run has this quantity and fits the expression.';
  const [low, high] = [axis.x[0], axis.x[axis.x.length - 1]].map(readable);
  const sizes = [...kept.values()].map((rows) => rows.length);
  const parts = [groups.length < runs ? `${runs} runs in ${groups.length} maps` : `${runs} runs`];
  if (path) parts[0] += ` of ${path}`;
  if (left) parts.push(`${left} more: type a part of their names`);
  parts.push(sizes.length > 1 ? `${sizes.join(' or ')} layers` : `the same ${sizes[0] ?? 0} layers in each`);
  parts.push(`${axis.name} ${low} to ${high}`);
  if (scalar) parts.push(`beside each name: the last ${scalar}${groups.length < runs ? ', the mean of a group' : ''}`);
  return parts.join(' · ');
}
