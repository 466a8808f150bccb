// SPDX-License-Identifier: Apache-2.0
// Many runs at once: a small heatmap of each, all on one scale, over one x axis, and with the same rows.
import {AXES, align, project} from './align.js';
import {barColour} from './colours.js';
import {readable} from './data.js';
import {add, fill} from './dom.js';
import {commonPath, filtered, grouped, mean, rowsOf, sorted, together} from './sweep.js';

const ORDERS = [['name', 'name'], ['newest', 'newest first'], ['lowest', 'lowest first'], ['highest', 'highest first']];
const MOST_MAPS = 100;
const MOST_COLUMNS = 400;

export class SmallMaps {
  /**
   * @param on.set called with {name: value}, of the state
   * @param on.open called with the name of a run
   * @param on.say called with what is under the pointer, in parts, or with []
   */
  constructor(parent, state, on) {
    this.on = on;
    this.section = add(parent, 'section', {id: 'sweep', hidden: true});
    const form = add(this.section, 'form');
    form.addEventListener('submit', (event) => event.preventDefault());
    const field = (name, label, tag, properties = {}) => {
      const wrap = add(form, 'label');
      wrap.append(label);
      return add(wrap, tag, {name, ...properties});
    };
    this.names = field('runs', 'runs (regular expression)', 'input', {type: 'search', value: state.runs});
    this.group = field('group', 'group runs that differ in *', 'input', {
      type: 'search',
      value: state.group,
      placeholder: 'seed_*',
    });
    this.scalar = field('scalar', 'scalar', 'select');
    this.order = field('order', 'order', 'select');
    for (const input of [this.names, this.group]) {
      input.addEventListener('input', () => on.set({[input.name]: input.value}));
    }
    this.order.addEventListener('change', () => on.set({order: this.order.value}));
    // Whoever chooses a scalar wants to sort by it.
    this.scalar.addEventListener('change', () =>
      on.set({scalar: this.scalar.value, order: this.scalar.value ? 'lowest' : 'name'}));
    this.line = add(this.section, 'p', {id: 'sweepLine'});
    this.bar = add(this.section, 'div', {id: 'sweepBar'});
    this.grid = add(this.section, 'div', {id: 'smallMaps'});
    this.maps = [];
  }

  get hidden() {
    return this.section.hidden;
  }

  set hidden(hidden) {
    this.section.hidden = hidden;
  }

  /** Show what can be chosen: `tags` of scalars, and whether the expression is `broken`. */
  offer({state, tags, broken}) {
    fill(this.scalar, [['', 'none'], ...tags.map((tag) => [tag, tag])], state.scalar);
    fill(this.order, state.scalar ? ORDERS : ORDERS.slice(0, 2), state.order);
    for (const input of [this.names, this.group]) {
      if (document.activeElement !== input) input.value = state[input.name];
    }
    this.names.setAttribute('aria-invalid', String(broken));
  }

  /**
   * Draw a map of each of `groups`.
   *
   * @param groups [{name, runs}] in order
   * @param tableOf the table of a run, or undefined while it is not there
   * @param shape {by, keep, scaleOf, paint, dark, label, scalar, values, left}: what to align by, which of some layers
   *   are shown, the scale for some tables, how to paint cells, the name of the quantity, the chosen scalar with its
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
    const scale = shape.scaleOf(all);
    let run = 0;
    const drawn = found.map((group) => {
      const [from, to] = [run, (run += group.tables.length)];
      const tables = group.tables.map((table, index) => project(table, axis.at[from + index], axis.x));
      const rows = kept.get(families.slice(from, to).reduce((one, two) => (two.length > one.length ? two : one)));
      const table = tables.length > 1 ? together(tables, rows, shape.codes) : tables[0];
      return {group, table, rows, title: group.name.slice(path.length)};
    });
    while (this.maps.length < drawn.length) this.maps.push(new SmallMap(this.grid, this));
    this.maps.splice(drawn.length).forEach((map) => map.figure.remove());
    const height = Math.min(Math.max(3 * Math.max(1, ...drawn.map(({rows}) => rows.length)), 70), 180);
    drawn.forEach((one, index) => this.maps[index].show({...one, ...shape, scale, axis, height}));
    this.line.textContent = summary(found, all.length, axis, kept, {...shape, path});
    this.drawBar(scale, shape);
    this.mark(null);
  }

  /** Highlight the same layer and column in all maps. */
  mark(cell) {
    for (const map of this.maps) map.draw(cell);
  }

  drawBar(scale, {label}) {
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

  show({group, table, rows, title, scale, axis, height, paint, scalar, values}) {
    Object.assign(this, {group, table, rows, axis, height, columns: axis.x.length});
    const several = group.runs.length > 1;
    this.button.textContent = several ? `${title} (${group.runs.length} runs)` : title;
    this.button.title = several ? group.runs.join('\\n') : group.name;
    const number = mean(group, values);
    this.note.textContent = scalar && `${several ? 'mean ' : ''}${readable(number)}`;
    this.canvas.setAttribute('role', 'img');
    const what = several ? 'geometric mean of its runs' : 'one run';
    this.canvas.setAttribute('aria-label', `${group.name}: ${what}, ${rows.length} layers over ${axis.name}`);
    paint(this.cells, table, rows, scale);
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
    const time = several || step === null ? [`${axis.name} ${readable(axis.x[column])}`] : [...(epoch === null ? [] : [`epoch ${epoch}`]), `step ${step}`];
    const head = [several ? `${group.name} (${group.runs.length} runs)` : group.name, layer, ...time];
    if (row === undefined) return [...head, 'not in this run'];
    const index = row * this.columns + column;
    const value = table.values[index];
    if (table.cells[index] === MISSING) return [...head, 'not measured'];
    if (!several || !Number.isFinite(table.low[index])) return [...head, readable(value)];
    const [low, high] = [table.low[index], table.high[index]];
    const times = low > 0 ? `, ×${readable(Number((high / low).toPrecision(2)))}` : '';
    return [...head, `mean ${readable(value)}`, `${readable(low)} to ${readable(high)}${times}`];
  }
}

/** One line on all maps. */
function summary(groups, runs, axis, kept, {scalar, left, path}) {
  const [low, high] = [axis.x[0], axis.x[axis.x.length - 1]].map(readable);
  const sizes = [...kept.values()].map((rows) => rows.length);
  const parts = [groups.length < runs ? `${runs} runs in ${groups.length} maps` : `${runs} runs`];
  if (path) parts[0] += ` of ${path}`;
  if (left) parts.push(`${left} more: type a part of their names`);
  parts.push(sizes.length > 1 ? `${sizes.join(' or ')} layers` : `the same ${sizes[0] ?? 0} layers in each`);
  parts.push(`${axis.name} ${low} to ${high}`);
  if (scalar) parts.push(`beside each name: the last ${scalar}`);
  return parts.join(' · ');
}
