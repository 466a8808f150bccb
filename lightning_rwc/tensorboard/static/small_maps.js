// SPDX-License-Identifier: Apache-2.0
// Many runs at once: a small heatmap of each, all on one scale, over one x axis, and with the same rows.
import {align, chosen, project} from './align.js';
import {CODES} from './cells.js';
import {barColour, paint} from './colours.js';
import {readable} from './data.js';
import {add} from './dom.js';
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
    this.bar = add(parent, 'div', {id: 'sweepBar'});
    this.grid = add(parent, 'div', {id: 'smallMaps'});
    this.maps = [];
  }

  /**
   * Draw a map of each of `groups`.
   *
   * @param groups [{name, runs}] in order
   * @param tableOf the table of a run, or undefined while it is not there
   * @param shape {by, keep, scaleOf, codes, scalar, values, left}: what to align by, which of some layers are
   *   shown, the scale for some tables, the chosen scalar with its values, and how many runs are left out
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
    const scale = shape.scaleOf(all);
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
    this.drawBar(scale, all[0]?.label ?? '');
    this.mark(null);
  }

  /** Highlight the same layer and column in all maps. */
  mark(cell) {
    for (const map of this.maps) map.draw(cell);
  }

  drawBar(scale, label) {
    const [width, height] = [240, 10];
    const ratio = window.devicePixelRatio || 1;
    const canvas = Object.assign(document.createElement('canvas'), {width: width * ratio, height: height * ratio});
    const context = canvas.getContext('2d');
    context.scale(ratio, 1);
    for (let x = 0; x < width; x++) {
      context.fillStyle = barColour(scale, x / (width - 1));
      context.fillRect(x, 0, 1.5, height * ratio);
    }
    this.bar.replaceChildren(label, canvas);
  }
}

/** The map of one run, or of a group of runs. */
class SmallMap {
  constructor(parent, owner) {
    this.figure = add(parent, 'figure', {className: 'small'});
    const caption = add(this.figure, 'figcaption');
    this.button = add(caption, 'button', {type: 'button'});
    this.note = add(caption, 'span');
    this.canvas = add(this.figure, 'canvas');
    this.cells = document.createElement('canvas');
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

  show({group, table, rows, title, scale, axis, height, scalar, values}) {
    Object.assign(this, {group, table, rows, axis, height, columns: axis.x.length});
    const several = group.runs.length > 1;
    this.button.textContent = title;
    this.button.title = several ? group.runs.join('\\n') : group.name;
    const number = mean(group, values);
    const parts = [...(several ? [`${group.runs.length} runs`] : []), ...(scalar ? [readable(number)] : [])];
    this.note.textContent = parts.join(' · ');
    this.canvas.setAttribute('role', 'img');
    const what = several ? 'geometric mean of its runs' : 'one run';
    this.canvas.setAttribute('aria-label', `${group.name}: ${what}, ${rows.length} layers over ${axis.name}`);
    paintCells(this.cells, table, rows, scale);
  }

  draw(cell) {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [this.canvas.clientWidth || 200, this.height];
    this.canvas.style.height = `${height}px`;
    Object.assign(this.canvas, {width: Math.round(width * ratio), height: Math.round(height * ratio)});
    const context = this.canvas.getContext('2d');
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.cells, 0, 0, width, height);
    const row = cell ? this.rows.indexOf(cell.layer) : -1;
    if (row < 0) return;
    context.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue('--text');
    const [across, down] = [width / this.columns, height / this.rows.length];
    context.strokeRect(-1, row * down, width + 2, down);
    context.strokeRect(cell.column * across, -1, across, height + 2);
  }

  at(x, y) {
    const column = Math.floor((x / this.canvas.clientWidth) * this.columns);
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
    if (!several || !Number.isFinite(table.low[index])) return [...head, readable(value)];
    const [low, high] = [table.low[index], table.high[index]];
    const times = low > 0 ? `, ×${readable(Number((high / low).toPrecision(2)))}` : '';
    return [...head, `mean ${readable(value)}`, `${readable(low)} to ${readable(high)}${times}`];
  }
}

function paintCells(canvas, table, rows, scale) {
  const columns = table.steps.length;
  Object.assign(canvas, {width: Math.max(columns, 1), height: Math.max(rows.length, 1)});
  const context = canvas.getContext('2d');
  const image = context.createImageData(canvas.width, canvas.height);
  rows.forEach((layer, row) => {
    table.row(table.rowOf.get(layer)).forEach((value, column) => {
      const colour = paint(scale, value);
      if (colour) image.data.set([...colour, 255], 4 * (row * columns + column));
    });
  });
  context.putImageData(image, 0, 0);
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
