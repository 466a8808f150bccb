// SPDX-License-Identifier: Apache-2.0
// Wires the parts of the page: what is chosen decides what is loaded, and both decide what is drawn.
import {Aligned} from './align.js';
import {AllRuns} from './all_runs.js';
import {inks} from './canvas.js';
import {looks} from './cells.js';
import {ColourBar} from './colourbar.js';
import {Comparison} from './comparison.js';
import {Controls} from './controls.js';
import {closest, fetchAppearance, fetchScalars, fetchSeries, fetchTable, readable} from './data.js';
import {rowColour, runColours} from './depths.js';
import {add} from './dom.js';
import {emptyPage} from './empty.js';
import {saveCsv, savePng} from './exports.js';
import {Findings, allFindings, columnOf, marksOf, rowsOf} from './findings.js';
import {Frames} from './frames.js';
import {Heatmap} from './heatmap.js';
import {help} from './help.js';
import {Key} from './key.js';
import {followLink, readLink, spaced, writeLink} from './links.js';
import {Notes} from './notes.js';
import {Panels} from './panels.js';
import {Pins} from './pins.js';
import {Player} from './playing.js';
import {poll} from './polling.js';
import {Profile} from './profile.js';
import {Readout, cellText, hasCell} from './readout.js';
import {arrange, expression, fold, foldable} from './rows.js';
import {colourScale} from './scales.js';
import {DEFAULTS, Selection} from './selection.js';
import {Store, choices, fulfils, linked} from './store.js';
import {followTheme} from './theme.js';
import {View} from './view.js';

/** What is loaded anew when it is chosen anew. */
const LOADED = ['run', 'other', 'prefix', 'layer', 'view', 'runs', 'group', 'scalar', 'order'];
/** What ends the play of what was shown before. */
const TURNED = ['run', 'prefix', 'layer', 'view'];
// Safari takes no more than 100 addresses in 30 seconds.
const LINK_MS = 300;

export class App {
  constructor(body) {
    this.body = body;
    this.selection = new Selection(readLink(DEFAULTS), (names) => this.changed(names));
    this.store = new Store(fetchTable);
    this.frames = new Frames({all: () => this.drawAll(), maps: () => this.drawMaps(), marks: () => this.mark()});
    this.view = new View();
    this.hovered = null;
    this.opens = new Set();
    this.layers = [];
    this.folded = new WeakMap();
    this.known = new Set();
    this.filter = '';
    this.linkWriter = spaced(() => writeLink(this.state, DEFAULTS), LINK_MS);
    this.follow();
  }

  /** Begin with what a link says. */
  follow() {
    const {run, other, prefix, layer} = this.state;
    // What it names may appear later, because TensorBoard reads one run after the other.
    this.awaited = run ? {run, other, prefix, layer} : null;
    this.touched = Boolean(run);
    this.gone = [];
  }

  /** Show what a link says that somebody puts into the address of the open page. */
  restore(link) {
    Object.assign(this.state, DEFAULTS, link);
    this.follow();
    this.player.stop();
    this.hovered = this.map.cursor = this.outer = null;
    this.view.reset();
    this.controls.restore(this.state);
    this.reload();
    this.frames.ask('all');
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
    followLink(DEFAULTS, (link) => this.restore(link));
    new ResizeObserver(() => this.frames.ask('all')).observe(this.body);
  }

  build() {
    const {body, selection} = this;
    this.controls = new Controls(body, this.state, {
      set: (change) => this.choose(change),
      open: (layer) => (layer ? this.open(layer) : this.close()),
      select: (column) => this.select(column),
      play: () => this.table && this.player.toggle(this.column, () => this.table?.steps.length ?? 0),
      png: () => savePng(this.main, this.fileName),
      csv: () => this.table && saveCsv(this.table, this.layers, this.fileName),
    });
    this.player = new Player({
      show: (column) => this.select(column),
      turned: (playing) => (this.controls.playing = playing),
    });
    this.notes = new Notes(body);
    this.findings = new Findings(body, (finding) => this.go(finding));
    this.readout = new Readout(body);
    this.path = add(body, 'nav', {id: 'path', ariaLabel: 'layer'});
    const back = add(this.path, 'button', {type: 'button', textContent: '← all layers', name: 'back'});
    back.addEventListener('click', () => this.close());
    this.opened = add(this.path, 'strong');
    this.pinList = new Pins(body, (name) => selection.pin(name), () => selection.set(selection.pinOnly([])));
    this.main = add(body, 'main', {id: 'charts'});
    const first = add(this.main, 'div', {id: 'first'});
    const head = add(first, 'header');
    this.bar = new ColourBar(head);
    help(head);
    const maps = add(first, 'div', {id: 'maps'});
    const side = add(this.main, 'div', {id: 'side'});
    const on = {
      hover: (cell) => this.hover(cell),
      pin: (layer) => selection.pin(layer),
      select: (place) => this.selectPlace(place),
      open: (layer) => this.open(layer),
      close: () => this.close(),
      view: () => this.frames.ask('maps'),
    };
    this.map = new Heatmap(maps, this.view, on);
    this.comparison = new Comparison(maps, this.view, on);
    // What is not a map has columns of its own.
    const at = (timeOf) => (cell) =>
      this.hover(cell && this.table && {...cell, column: this.aligned.place(timeOf(cell.column))});
    this.profile = new Profile(maps, this.view, {...on, hover: at((column) => this.aligned.time(column))});
    this.key = new Key(first);
    this.panels = new Panels(side, {...on, hover: at((column) => this.aligned.curves.x[column])});
    this.allRuns = new AllRuns(body, this.store, fetchScalars, {
      set: (change) => this.choose(change),
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
    return this.shown(this.state.run);
  }

  get other() {
    return this.state.other ? this.shown(this.state.other) : undefined;
  }

  /** The table of a run, folded if the user wants that. */
  shown(run) {
    const table = this.store.table(run, this.state);
    if (!table || !this.state.fold || !foldable(table)) return table;
    if (!this.folded.has(table)) this.folded.set(table, fold(table));
    return this.folded.get(table);
  }

  /** What a row is: 'unit', 'block' or 'layer'. */
  get kind() {
    if (this.selection.layer !== null) return 'unit';
    return this.table?.memberOf ? 'block' : 'layer';
  }

  /** The selected run, and the one to compare with, over the axis that they share. */
  get aligned() {
    const tables = [this.table, this.other].filter(Boolean);
    const {own = [], wanted} = this.lined ?? {};
    const same = own.length === tables.length && tables.every((table, index) => table === own[index]);
    if (!same || wanted !== this.state.by) this.lined = new Aligned(tables, this.state.by);
    return this.lined;
  }

  get column() {
    return this.selection.column(this.table?.steps ?? []);
  }

  get fileName() {
    return [this.state.prefix, ...(this.selection.layer === null ? [] : [this.selection.layer])].join('_');
  }

  /** What the user does with the controls. */
  choose(change) {
    if ('run' in change || 'other' in change) this.gone = [];
    if ('fold' in change) this.view.reset();
    this.selection.set(change);
  }

  changed(names) {
    this.touched = true;
    this.awaited = null;
    if (TURNED.some((name) => names.includes(name))) this.player.stop();
    if (LOADED.some((name) => names.includes(name))) this.reload();
    this.frames.ask('all');
    this.linkWriter();
  }

  reload() {
    this.load().catch((error) => this.fail(error.message));
  }

  // While a table is being loaded, the page still shows the one before.
  select(column) {
    if (this.table) this.selection.select(column, this.table.steps);
  }

  /** Select the measurement that a column of the maps shows. */
  selectPlace(place) {
    if (!this.table) return;
    const column = this.aligned.at[0][place];
    if (column >= 0) this.select(column);
  }

  hover(cell) {
    this.hovered = cell;
    this.describe();
    this.frames.ask('marks');
  }

  /** Show the rows and the moment of a finding; or release them, if they are shown. */
  go(finding) {
    const {table, selection, layers} = this;
    if (!table) return;
    if (this.chosen(finding)) return selection.set(selection.pinOnly([]));
    const rows = rowsOf(finding, table);
    const places = rows.map((row) => layers.indexOf(row)).filter((row) => row >= 0);
    if (places.length) {
      const [first, last] = [Math.min(...places), Math.max(...places)];
      this.view.revealRows(first / layers.length, (last + 1) / layers.length);
    }
    const column = columnOf(finding, table.steps);
    const place = this.aligned.place(this.aligned.time(column));
    const {length} = this.aligned.x;
    if (column >= 0) this.view.revealColumns(place / length, (place + 1) / length);
    const time = column < 0 ? {} : selection.timeOf(column, table.steps);
    const hidden = places.length < rows.length ? {filter: ''} : {};
    if ('filter' in hidden) this.controls.fields.filter.value = '';
    selection.set({...selection.pinOnly(rows), ...time, ...hidden});
    this.map.canvas.scrollIntoView({block: 'nearest'});
  }

  /** Whether exactly the rows of a finding are pinned, at its moment. */
  chosen(finding) {
    const {table, selection} = this;
    const rows = rowsOf(finding, table);
    const {pins} = selection;
    const same = rows.length && pins.length === rows.length && rows.every((row) => pins.includes(row));
    return Boolean(same) && columnOf(finding, table.steps) === this.column;
  }

  /** Show the units of `layer`. */
  open(layer) {
    const tables = this.store.series.filter((one) => one.run === this.state.run && one.layer === layer);
    if (this.selection.layer === null) {
      this.outer = {prefix: this.state.prefix, view: this.view.save(), cursor: this.map.cursor};
    }
    this.turn({layer, prefix: closest(tables, this.state.prefix).prefix, unitPins: ''});
  }

  /** Go back to all layers, to where one was. */
  close() {
    const {prefix = this.state.prefix, view, cursor = null} = this.outer ?? {};
    this.turn({layer: '', prefix, unitPins: ''});
    if (view) this.view.restore(view);
    this.map.cursor = cursor;
    if (!this.body.contains(document.activeElement) || this.path.contains(document.activeElement)) {
      this.map.canvas.focus();
    }
  }

  /** Show other rows, from the first to the last. */
  turn(change) {
    this.hovered = this.map.cursor = null;
    this.view.reset();
    this.selection.set(change);
  }

  // What is loaded.

  async refresh() {
    const appearance = this.appearance ?? fetchAppearance();
    [this.store.series, this.appearance] = await Promise.all([fetchSeries(), appearance]);
    await this.load();
  }

  async load() {
    const {series} = this.store;
    const all = this.state.view === 'all';
    const wanted = {...linked(series, this.state, this.awaited), ...(all ? {layer: ''} : {})};
    let there = choices(series, wanted);
    this.empty.hidden = there !== null;
    this.controls.hidden = there === null;
    this.main.hidden = there === null || all;
    this.allRuns.hidden = there === null || !all;
    if (!there) return;
    // Until the user does something, the newest run is shown, also if it appears later.
    if (!this.touched && !this.known.has(there.runs[0])) there = choices(series, {...wanted, run: ''});
    this.known = new Set(there.runs);
    this.gone.push(...there.gone.filter((run) => ![this.awaited?.run, this.awaited?.other].includes(run)));
    if (this.awaited && fulfils(there.state, this.awaited)) this.awaited = null;
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
    this.profile.draw();
  }

  drawAll() {
    const all = this.state.view === 'all';
    if (!this.appearance || !(all ? this.allRuns.loaded : this.table)) return;
    this.looks = looks(this.appearance, this.ground);
    const {filter} = this.state;
    if (this.kind !== 'unit' && expression(filter)) this.filter = filter;
    if (all) this.drawAllRuns();
    else this.drawRun();
    performance.mark('rwc drawn');
  }

  get ground() {
    return inks().ground;
  }

  drawAllRuns() {
    const {state} = this;
    const error = expression(state.filter) ? '' : 'not a regular expression yet';
    this.allRuns.show((run) => this.shown(run), state, {
      by: state.by,
      keep: (layers) => arrange({layers}, {sort: state.sort === 'name' ? 'name' : 'depth', filter: this.filter}),
      scaleOf: (tables, layers) => colourScale(tables, layers, state.colour),
      looks: this.looks,
      wordsOf: (table, code) => this.wordsOf(table, code),
    });
    const {axis} = this.allRuns.maps;
    const servers = this.allRuns.groups.flatMap(({runs}) => runs.map((run) => this.store.table(run, state)));
    this.controls.showAll({state, table: servers.find(Boolean), axis, error});
    for (const part of [this.path, this.pinList.element, this.findings.element]) part.hidden = true;
    this.notes.show([]);
    this.readout.show([], this.allRuns.summary);
  }

  /** What a code means in a table; nothing for a value. */
  wordsOf(table, code) {
    const look = this.looks?.[code];
    return look ? table.words[look.name] || look.words : '';
  }

  drawRun() {
    const {state, table, other, kind, aligned} = this;
    const {name: axis} = aligned;
    this.pinList.element.hidden = false;
    const ofUnits = kind === 'unit';
    const typed = ofUnits ? '' : state.filter;
    const error = expression(typed) ? '' : 'not a regular expression yet';
    const layers = arrange(table, {sort: state.sort, filter: ofUnits ? '' : this.filter});
    this.layers = layers;
    const {steps} = table;
    const server = this.store.table(state.run, state);
    const {own: tables, by} = aligned;
    const range = {column: this.column, columns: steps.length};
    this.controls.show({state, table: server, kind, error, axis: {tables, by}, ...range});
    this.showNotes(error);
    this.path.hidden = !ofUnits;
    const part = table.layers.length < table.of ? ` (${table.layers.length} of ${table.of}, evenly spaced)` : '';
    this.opened.textContent = `Units of ${state.layer.slice(0, 200)}${part}`;
    this.main.classList.toggle('two', Boolean(other));
    const findings = ofUnits ? null : allFindings(server);
    this.findings.show(findings, server, (finding) => this.chosen(finding));

    const found = marksOf(findings ?? [], table);
    found.columns = found.columns.map((column) => aligned.place(aligned.time(column)));
    this.scale = colourScale(other ? [table, other] : [table], layers, state.colour);
    this.bar.show(this.scale);
    const opens = kind === 'layer' ? this.opens : new Set();
    const codes = table.codesOf(layers);
    const of = {codes, looks: this.looks, words: table.words, findings: found.columns.length, opens: opens.size};
    this.key.show(of);
    const height = this.height(layers.length, Boolean(other));
    const stacked = window.innerWidth <= 900;
    const shape = {axis, scale: this.scale, looks: this.looks, height, kind};
    const title = ofUnits ? `${state.run}, units of ${state.layer}` : state.run;
    this.map.show({...shape, table: aligned.tables[0], layers, opens, found, title, names: true});
    const beside = {...shape, names: stacked};
    const looked = {...this.appearance, ground: this.ground};
    if (other) this.comparison.show(aligned, [state.run, state.other], layers, beside, looked);
    else this.comparison.hide();

    const now = aligned.time(this.column);
    const profiles = aligned.own.map((one, index) => ({
      table: one,
      column: index ? aligned.at[1][aligned.place(now)] : this.column,
      colour: runColours(this.dark)[index],
    }));
    this.profile.show(profiles, {...shape, layers, time: `${axis} ${readable(now)}`});
    this.panels.show([state.run, ...(other ? [state.other] : [])], {
      kind,
      aligned,
      layers,
      pins: this.selection.pins,
      logarithmic: state.axis === 'log' && !table.linear,
      weight: Number(state.smooth),
      height: Math.max(Math.min(height * 0.5, 340), 200),
      dark: this.dark,
    });
    const pinned = this.selection.pins.filter((layer) => table.rowOf.has(layer));
    this.pinList.show(pinned, (layer) => [table.shortOf(layer), rowColour(layer, table, this.dark)]);
    this.mark();
    this.describe();
  }

  /** As high as rows need, as far as the window has room. */
  height(rows, two) {
    const above = this.map.canvas.getBoundingClientRect().top + window.scrollY;
    const room = Math.max(window.innerHeight - above - 60, 260);
    return Math.min(Math.max(18 * rows + 50, 260), room, two ? 480 : 900);
  }

  showNotes(error) {
    const {state, table, kind} = this;
    const notes = this.gone.map((run) => ({text: `There is no run “${run.slice(0, 200)}” in this log any more.`}));
    for (const name of new Set([this.awaited?.run, this.awaited?.other])) {
      if (!name || this.known.has(name)) continue;
      const instead = name === this.awaited.run ? ` The run “${state.run.slice(0, 200)}” is shown.` : '';
      notes.push({text: `The run “${name.slice(0, 200)}” of this link is not in this log (yet).${instead}`});
    }
    const clear = {
      label: 'show all layers',
      act: () => {
        this.controls.fields.filter.value = '';
        this.choose({filter: ''});
      },
    };
    if (error) {
      const typed = state.filter.slice(0, 200);
      notes.push({text: `“${typed}” is not a regular expression yet. The rows are those of before.`});
    } else if (!this.layers.length && this.filter) {
      const text = `None of the ${table.layers.length} ${kind}s matches “${this.filter.slice(0, 200)}”.`;
      notes.push({text, ...clear});
    }
    this.notes.show(notes);
  }

  /** What follows the pointer; cheap for any number of layers. */
  mark() {
    const {table, column, hovered} = this;
    if (!table) return;
    const hover = hovered?.layer;
    const {pins} = this.selection;
    const at = this.aligned.time(column);
    const place = this.aligned.place(at);
    for (const map of this.maps) map.mark({hover, pins, column: place, time: hovered?.column ?? null});
    this.profile.mark({hover, pins});
    this.panels.mark({hover, pins, at});
  }

  describe() {
    const {table, hovered, kind, state} = this;
    if (state.view === 'all') return this.readout.show([], this.allRuns.summary);
    if (!table) return this.readout.show([], '');
    const [shown] = this.aligned.tables;
    const wordsOf = (code) => this.wordsOf(table, code);
    const parts = hasCell(shown, hovered)
      ? [
          ...cellText(shown, hovered, {kind, perStep: this.scale?.perStep, wordsOf}),
          ...this.comparison.words(hovered, wordsOf),
          ...(kind === 'layer' && this.opens.has(hovered.layer) ? ['its units: click ▸ or press U'] : []),
        ]
      : [];
    const all = `${this.layers.length} of ${table.of} ${kind}s, ${table.steps.length} measurements`;
    this.readout.show(parts, all);
  }

  fail(problem) {
    if ((problem ?? '') === this.readout.problem) return;
    this.readout.fail(problem ?? '');
    this.describe();
  }
}
