// SPDX-License-Identifier: Apache-2.0
// Wires the parts of the page: what is chosen decides what is loaded, and both decide what is drawn.
import {Aligned} from './align.js';
import {AllRuns} from './all_runs.js';
import {valueScale} from './colours.js';
import {Comparison} from './comparison.js';
import {Controls} from './controls.js';
import {arrange, closest, fetchScalars, fetchSeries, fetchTable, limits} from './data.js';
import {add} from './dom.js';
import {emptyPage} from './empty.js';
import {saveCsv, savePng} from './exports.js';
import {Frames} from './frames.js';
import {Heatmap} from './heatmap.js';
import {readLink, writeLink} from './links.js';
import {Panels, rowColour} from './panels.js';
import {Pins} from './pins.js';
import {Player} from './playing.js';
import {poll} from './polling.js';
import {Readout, cellText, hasCell} from './readout.js';
import {DEFAULTS, Selection} from './selection.js';
import {Store, choices} from './store.js';
import {followTheme} from './theme.js';

/** What is loaded anew when it is chosen anew. */
const LOADED = ['run', 'other', 'prefix', 'layer', 'view', 'runs', 'group', 'scalar', 'order'];

export class App {
  constructor(body) {
    this.body = body;
    this.selection = new Selection(readLink(DEFAULTS), (names) => this.changed(names));
    this.store = new Store(fetchTable);
    this.frames = new Frames({all: () => this.drawAll(), maps: () => this.drawMaps(), marks: () => this.mark()});
    this.view = {x0: 0, x1: 1, y0: 0, y1: 1};
    this.hovered = null;
    this.opens = new Set();
    this.layers = [];
  }

  async start() {
    this.build();
    followTheme((dark) => {
      this.dark = dark;
      this.frames.ask('all');
    });
    await poll(
      () => this.refresh(),
      (error) => this.fail(error && `TensorBoard does not answer (${error.message}). Trying again.`),
    );
    new ResizeObserver(() => this.frames.ask('all')).observe(this.body);
  }

  build() {
    const {body, selection} = this;
    this.controls = new Controls(body, this.state, {
      set: (change) => selection.set(change),
      open: (layer) => (layer ? this.open(layer) : this.close()),
      select: (column) => this.select(column),
      play: () => this.player.toggle(this.column, () => this.table.steps.length),
      png: () => savePng(this.main, this.fileName),
      csv: () => saveCsv(this.table, this.layers, this.fileName),
    });
    this.player = new Player({
      show: (column) => this.select(column),
      turned: (playing) => (this.controls.playing = playing),
    });
    this.readout = new Readout(body);
    this.path = add(body, 'nav', {id: 'path', ariaLabel: 'layer'});
    const back = add(this.path, 'button', {type: 'button', textContent: '← all layers', name: 'back'});
    back.addEventListener('click', () => this.close());
    this.opened = add(this.path, 'strong');
    this.pinList = new Pins(body, (name) => selection.pin(name));
    this.main = add(body, 'main', {id: 'charts'});
    const maps = add(this.main, 'div', {id: 'maps'});
    const side = add(this.main, 'div', {id: 'side'});
    const on = {
      hover: (cell) => this.hover(cell),
      pin: (layer) => selection.pin(layer),
      select: (column) => this.selectPlace(column),
      open: (layer) => this.open(layer),
      close: () => this.close(),
      view: () => this.frames.ask('maps'),
    };
    this.map = new Heatmap(maps, this.view, on);
    this.comparison = new Comparison(maps, this.view, on);
    const near = (cell) => cell && {...cell, column: this.aligned.place(this.aligned.curves.x[cell.column])};
    this.panels = new Panels(side, {...on, hover: (cell) => this.hover(near(cell))});
    this.allRuns = new AllRuns(body, this.store, fetchScalars, {
      set: (change) => selection.set(change),
      say: (parts, otherwise) => this.readout.show(parts, otherwise),
    });
    this.controls.form.after(this.allRuns.form);
    this.empty = emptyPage(body);
  }

  // What is chosen.

  get state() {
    return this.selection.state;
  }

  get table() {
    return this.store.table(this.state.run, this.state);
  }

  get other() {
    return this.state.other ? this.store.table(this.state.other, this.state) : undefined;
  }

  /** What a row is. */
  get kind() {
    return this.selection.layer === null ? 'layer' : 'unit';
  }

  /** The selected run, and the one to compare with, over the axis that they share. */
  get aligned() {
    const tables = [this.table, this.other].filter(Boolean);
    const known = this.known;
    const same = known?.own.length === tables.length && tables.every((table, index) => table === known.own[index]);
    if (!same || this.knownBy !== this.state.by) this.known = new Aligned(tables, this.state.by);
    this.knownBy = this.state.by;
    return this.known;
  }

  get column() {
    return this.selection.column(this.table?.steps ?? []);
  }

  get fileName() {
    return [this.state.prefix, ...(this.selection.layer === null ? [] : [this.selection.layer])].join('_');
  }

  changed(names) {
    writeLink(this.state, DEFAULTS);
    if (LOADED.some((name) => names.includes(name))) {
      this.load().catch((error) => this.fail(error.message));
    }
    this.frames.ask('all');
  }

  select(column) {
    this.selection.select(column, this.table.steps);
  }

  /** Select the measurement that a column of the maps shows. */
  selectPlace(place) {
    const column = this.aligned.at[0][place];
    if (column >= 0) this.select(column);
  }

  hover(cell) {
    this.hovered = cell;
    this.describe();
    this.frames.ask('marks');
  }

  /** Show the units of `layer`. */
  open(layer) {
    const tables = this.store.series.filter((one) => one.run === this.state.run && one.layer === layer);
    this.outer = this.selection.layer === null ? this.state.prefix : this.outer;
    this.turn({layer, prefix: closest(tables, this.state.prefix).prefix, unitPins: ''});
  }

  /** Go back to all layers. */
  close() {
    this.turn({layer: '', prefix: this.outer ?? this.state.prefix, unitPins: ''});
    if (!this.body.contains(document.activeElement) || this.path.contains(document.activeElement)) {
      this.map.canvas.focus();
    }
  }

  /** Show other rows, from the first to the last. */
  turn(change) {
    this.hovered = this.map.cursor = null;
    Object.assign(this.view, {x0: 0, x1: 1, y0: 0, y1: 1});
    this.selection.set(change);
  }

  // What is loaded.

  async refresh() {
    this.store.series = await fetchSeries();
    await this.load();
  }

  async load() {
    const there = choices(this.store.series, this.state);
    this.empty.hidden = there !== null;
    const all = this.state.view === 'all';
    this.controls.hidden = there === null;
    this.main.hidden = there === null || all;
    this.allRuns.hidden = there === null || !all;
    if (!there) return;
    Object.assign(this.state, there.state);
    this.opens = there.opens;
    this.controls.offer({...there, state: this.state});
    if (all) {
      if (await this.allRuns.load({...this.state})) this.frames.ask('all');
    } else if (await this.store.load([this.state.run, this.state.other], {...this.state})) this.frames.ask('all');
  }

  // What is drawn.

  get maps() {
    return [this.map, ...this.comparison.maps];
  }

  drawMaps() {
    for (const map of this.maps) map.draw();
  }

  drawAll() {
    const all = this.state.view === 'all';
    if (!(all ? this.allRuns.loaded : this.table)) return;
    if (all) this.drawAllRuns();
    else this.drawRun();
    performance.mark('rwc drawn');
  }

  drawAllRuns() {
    const {state} = this;
    const logarithmic = state.colour === 'log';
    this.allRuns.show(state, {
      by: state.by,
      keep: (layers) => arrange({layers}, state).layers,
      scaleOf: (tables) => valueScale(limits(tables, logarithmic), {...tables[0], logarithmic}),
    });
    const {tables, by} = this.allRuns.maps.axis;
    this.controls.showAll(tables, by);
    this.path.hidden = this.pinList.element.hidden = true;
    this.readout.show([], this.allRuns.summary);
  }

  drawRun() {
    const {state, table, other, kind, aligned} = this;
    const {name: axis} = aligned;
    const {layers, error} = arrange(table, kind === 'unit' ? {...state, filter: ''} : state);
    this.layers = layers;
    const {linear, steps, signed, share} = table;
    this.controls.show({state, kind, error, linear, column: this.column, columns: steps.length, aligned});
    this.path.hidden = kind === 'layer';
    this.pinList.element.hidden = false;
    const part = table.layers.length < table.of ? ` (${table.layers.length} of ${table.of}, evenly spaced)` : '';
    this.opened.textContent = `Units of ${state.layer.slice(0, 200)}${part}`;
    this.main.classList.toggle('two', Boolean(other));

    const logarithmic = state.colour === 'log' && !linear;
    const scale = valueScale(limits(other ? [table, other] : [table], logarithmic), {logarithmic, signed, share});
    const room = Math.max(window.innerHeight - 190, 260);
    const height = Math.min(Math.max(18 * layers.length + 50, 260), room, other ? 480 : 900);
    const shape = {axis, scale, dark: this.dark, height, row: kind};
    const opens = kind === 'unit' ? new Set() : this.opens;
    const title = kind === 'unit' ? `${state.run}, units of ${state.layer}` : state.run;
    this.map.show({...shape, table: aligned.tables[0], layers, opens, title, names: true});
    if (other) this.comparison.show(aligned, [state.run, state.other], layers, shape);
    else this.comparison.hide();

    this.panels.show([state.run, ...(other ? [state.other] : [])], {
      kind,
      aligned,
      layers,
      pins: this.selection.pins,
      column: this.column,
      logarithmic: state.axis === 'log' && !linear,
      weight: Number(state.smooth),
      height: Math.max(Math.min(height * 0.46, 340), 200),
      dark: this.dark,
    });
    const pinned = this.selection.pins.filter((layer) => table.rowOf.has(layer));
    this.pinList.show(pinned, (layer) => rowColour(layer, table, kind, this.dark));
    this.mark();
    this.describe();
  }

  /** What follows the pointer; cheap for any number of layers. */
  mark() {
    const {table, column} = this;
    if (!table) return;
    const hover = this.hovered?.layer;
    const {pins} = this.selection;
    const at = this.aligned.time(column);
    for (const map of this.maps) map.mark({hover, pins, column: this.aligned.place(at)});
    const depth = hover === undefined ? null : table.rowOf.get(hover);
    this.panels.mark({hover, pins, at, depth});
  }

  describe() {
    const {table, hovered, kind} = this;
    if (!table) return this.readout.show([], '');
    const [shown] = this.aligned.tables;
    const there = hasCell(shown, hovered);
    const parts = there
      ? [
          ...cellText(shown, hovered, kind),
          ...this.comparison.words(hovered),
          ...(kind === 'layer' && this.opens.has(hovered.layer) ? ['its units: click ▸ or press U'] : []),
        ]
      : [];
    const all = `${this.layers.length} of ${table.of} ${kind}s, ${table.steps.length} measurements`;
    this.readout.show(parts, all);
  }

  fail(problem) {
    this.readout.fail(problem ?? '');
    this.describe();
  }
}
