// SPDX-License-Identifier: Apache-2.0
// The page: its controls, what is selected, and what is drawn when that changes. Names from logs only ever become text.
import {LineChart} from './charts.js';
import {depthColour, valueScale} from './colours.js';
import {
  arrange,
  axisOf,
  closest,
  csv,
  depthCorrelation,
  fetchSeries,
  fetchTable,
  limits,
  readable,
  smooth,
} from './data.js';
import {Heatmap} from './heatmap.js';

const PLUGIN = 'lightning_rwc';
const POLL_MS = 5000;
const MOST_POINTS = 300_000;
const SORTS = {
  layer: [['depth', 'as defined'], ['value', 'by last value'], ['name', 'by name']],
  unit: [['depth', 'most active first'], ['value', 'by last value'], ['name', 'by number']],
};
// What a link can hold. `time` is a step, or empty for the newest measurement. `layer` is the one whose units are shown.
const DEFAULTS = {
  run: '',
  other: '',
  prefix: '',
  layer: '',
  sort: 'depth',
  filter: '',
  colour: 'log',
  axis: 'log',
  smooth: '0',
  time: '',
  pins: '',
  unitPins: '',
};

export class App {
  constructor(body) {
    this.body = body;
    this.state = {...DEFAULTS, ...readLink()};
    this.view = {x0: 0, x1: 1, y0: 0, y1: 1};
    this.hovered = null;
    this.tables = {};
    this.opens = new Set();
    this.row = 'layer';
  }

  async start() {
    this.build();
    this.followTheme();
    await this.refresh();
    setInterval(() => document.visibilityState === 'visible' && this.refresh(), POLL_MS);
    new ResizeObserver(() => this.schedule()).observe(this.body);
  }

  // ── building ────────────────────────────────────────────────────────────────────────────────────────────────────

  build() {
    const form = this.body.appendChild(document.createElement('form'));
    form.addEventListener('submit', (event) => event.preventDefault());
    this.form = form;
    this.controls = {};
    const add = (name, label, element) => {
      const wrap = form.appendChild(document.createElement('label'));
      wrap.append(label, element);
      element.name = name;
      this.controls[name] = element;
      return element;
    };
    const choice = (name, label, options) => {
      const select = add(name, label, document.createElement('select'));
      fill(select, options, this.state[name]);
      select.addEventListener('change', () => this.set({[name]: select.value}));
    };
    choice('run', 'run', []);
    choice('other', 'compare with', []);
    choice('prefix', 'quantity', []);
    const layer = add('layer', 'layer', document.createElement('select'));
    layer.addEventListener('change', () => (layer.value ? this.open(layer.value) : this.close()));
    choice('sort', 'rows', SORTS.layer);
    const text = add('filter', 'layers (regular expression)', document.createElement('input'));
    text.type = 'search';
    text.value = this.state.filter;
    text.addEventListener('input', () => this.set({filter: text.value}));
    choice('colour', 'colour', [['log', 'logarithmic'], ['linear', 'linear']]);
    choice('axis', 'axis', [['log', 'logarithmic'], ['linear', 'linear']]);
    const range = (name, label, max, step) => {
      const input = add(name, label, document.createElement('input'));
      Object.assign(input, {type: 'range', min: 0, max, step, value: this.state[name] || 0});
      return input;
    };
    const weight = range('smooth', 'smoothing', 0.98, 0.02);
    weight.addEventListener('input', () => this.set({smooth: weight.value}));
    const time = range('time', 'measurement', 0, 1);
    time.addEventListener('input', () => this.selectColumn(Number(time.value)));
    this.button('play', () => this.play());
    this.button('PNG', () => this.exportPng());
    this.button('CSV', () => this.exportCsv());

    const element = (tag, id, parent = this.body) =>
      Object.assign(parent.appendChild(document.createElement(tag)), {id});
    this.readout = element('div', 'readout');
    this.readout.setAttribute('aria-live', 'polite');
    this.path = element('nav', 'path');
    this.path.setAttribute('aria-label', 'layer');
    const back = this.path.appendChild(document.createElement('button'));
    Object.assign(back, {type: 'button', textContent: '← all layers', name: 'back'});
    back.addEventListener('click', () => this.close());
    this.opened = this.path.appendChild(document.createElement('strong'));
    this.pinList = element('div', 'pins');
    this.main = element('main', 'charts');
    this.maps = element('div', 'maps', this.main);
    const side = element('div', 'side', this.main);
    const on = {
      hover: (cell) => this.hover(cell),
      pin: (layer) => this.pin(layer),
      select: (column) => this.selectColumn(column),
      open: (layer) => this.open(layer),
      close: () => this.close(),
      view: () => this.draw(() => this.heatmaps().forEach((map) => map.draw())),
    };
    this.map = new Heatmap(this.maps, this.view, on);
    const beside = (map) => ({
      ...on,
      select: () => {},
      hover: (cell) => this.hover(cell && this.same(cell, map().table)),
    });
    this.otherMap = new Heatmap(this.maps, this.view, beside(() => this.otherMap));
    this.differenceMap = new Heatmap(this.maps, this.view, beside(() => this.differenceMap));
    this.curves = new LineChart(side, 'curves', on);
    this.profile = new LineChart(side, 'depth profile', {});
    this.correlation = new LineChart(side, 'depth correlation', {});
    this.empty = this.body.appendChild(emptyPage());
  }

  button(name, act) {
    const button = this.form.appendChild(document.createElement('button'));
    Object.assign(button, {type: 'button', textContent: name, name});
    button.addEventListener('click', act);
    this.controls[name] = button;
  }

  followTheme() {
    let host = null;
    try {
      host = window.parent.document.body;
    } catch {
      // The frame belongs to a page of another origin. Only the system's preference is known.
    }
    const system = matchMedia('(prefers-color-scheme: dark)');
    const follow = () => {
      const inTensorBoard = host && host !== document.body;
      this.dark = inTensorBoard ? host.classList.contains('dark-mode') : system.matches;
      document.documentElement.classList.toggle('dark', this.dark);
      this.schedule();
    };
    if (host) new MutationObserver(follow).observe(host, {attributes: true, attributeFilter: ['class']});
    system.addEventListener('change', follow);
    follow();
  }

  // ── data ────────────────────────────────────────────────────────────────────────────────────────────────────────

  async refresh() {
    try {
      this.series = await fetchSeries();
      await this.load();
      this.say('');
    } catch (error) {
      this.say(`TensorBoard does not answer (${error.message}). Trying again.`);
    }
  }

  /** Fetch the selected tables that are new or have grown. */
  async load() {
    const ofLayers = this.series.filter(({layer}) => layer === null);
    const runs = [...new Set(ofLayers.map(({run}) => run))].sort(new Intl.Collator('en', {numeric: true}).compare);
    this.empty.hidden = runs.length > 0;
    this.main.hidden = this.form.hidden = runs.length === 0;
    if (!runs.length) return;
    const {state} = this;
    if (!runs.includes(state.run)) state.run = runs[0];
    if (!runs.includes(state.other)) state.other = '';
    const here = this.series.filter(({run}) => run === state.run);
    if (!here.some(({layer}) => layer === this.layer)) state.layer = '';
    const tables = here.filter(({layer}) => layer === this.layer);
    if (!tables.some(({prefix}) => prefix === state.prefix)) {
      state.prefix = (closest(tables, state.prefix) ?? tables[0]).prefix;
    }
    const openable = here.filter((one) => one.layer !== null && closest([one], state.prefix));
    this.opens = new Set(openable.map(({layer}) => layer));
    const opened = [...this.opens].map((name) => [name, `units of ${name}`]);
    fill(this.controls.layer, [['', 'all layers'], ...opened], state.layer);
    this.controls.layer.parentElement.hidden = !opened.length;
    const choices = runs.map((run) => [run, run]);
    fill(this.controls.run, choices, state.run);
    fill(this.controls.other, [['', 'none'], ...choices.filter(([run]) => run !== state.run)], state.other);
    fill(this.controls.prefix, tables.map(({prefix, label}) => [prefix, `${prefix}: ${label}`]), state.prefix);
    const wanted = {};
    for (const run of [state.run, state.other]) {
      const {prefix} = state;
      const series = this.series.find((one) => one.run === run && one.prefix === prefix && one.layer === this.layer);
      if (!series) continue;
      const key = this.key(run);
      const known = this.tables[key];
      const table = known?.newest === series.newest ? known.table : await fetchTable(run, prefix, state.layer);
      wanted[key] = table === known?.table ? known : {...series, table};
    }
    const before = this.tables;
    this.tables = wanted;
    const keys = Object.keys({...before, ...wanted});
    if (keys.some((key) => before[key] !== wanted[key])) this.schedule();
  }

  /** The layer whose units are shown, or null. */
  get layer() {
    return this.state.layer || null;
  }

  key(run) {
    return JSON.stringify([run, this.state.prefix, this.layer]);
  }

  tableOf(run) {
    return this.tables[this.key(run)]?.table;
  }

  /** What the selected run, and the one to compare with, are drawn over. */
  get axis() {
    return axisOf([this.tableOf(this.state.run), this.tableOf(this.state.other)].filter(Boolean));
  }

  // ── selection ───────────────────────────────────────────────────────────────────────────────────────────────────

  set(change) {
    Object.assign(this.state, change);
    this.writeLink();
    if (['run', 'other', 'prefix', 'layer'].some((name) => name in change)) {
      this.load().catch((error) => this.say(error.message));
    }
    this.schedule();
  }

  /** Show the units of `layer`. */
  open(layer) {
    const tables = this.series.filter((one) => one.run === this.state.run && one.layer === layer);
    this.outer = this.layer === null ? this.state.prefix : this.outer;
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
    this.set(change);
  }

  get pins() {
    try {
      const text = this.state[this.pinned];
      return text ? JSON.parse(text).filter((name) => typeof name === 'string') : [];
    } catch {
      return [];
    }
  }

  get pinned() {
    return this.layer === null ? 'pins' : 'unitPins';
  }

  pin(layer) {
    const pins = this.pins.includes(layer) ? this.pins.filter((one) => one !== layer) : [...this.pins, layer];
    this.set({[this.pinned]: pins.length ? JSON.stringify(pins) : ''});
  }

  hover(cell) {
    this.hovered = cell;
    this.describe();
    this.draw(() => this.mark());
  }

  /** The cell of the selected run at the time of a cell of another table. Its column is -1 if there is none. */
  same({layer, column}, table) {
    const time = table.times(this.axis)[column];
    return {layer, column: this.tableOf(this.state.run).times(this.axis).indexOf(time)};
  }

  get column() {
    const {steps} = this.tableOf(this.state.run) ?? {steps: []};
    const at = this.state.time === '' ? -1 : steps.indexOf(Number(this.state.time));
    return at >= 0 ? at : steps.length - 1;
  }

  selectColumn(column) {
    const {steps} = this.tableOf(this.state.run);
    this.set({time: column >= steps.length - 1 ? '' : String(steps[column])});
  }

  play() {
    const stop = () => {
      clearInterval(this.playing);
      this.playing = null;
      this.controls.play.textContent = 'play';
    };
    if (this.playing) return stop();
    this.controls.play.textContent = 'stop';
    let column = this.column >= this.tableOf(this.state.run).steps.length - 1 ? 0 : this.column;
    this.playing = setInterval(() => {
      this.selectColumn(column++);
      if (column >= this.tableOf(this.state.run).steps.length) stop();
    }, 120);
  }

  // ── drawing ─────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Draw everything at the next frame. */
  schedule() {
    this.draw(() => this.drawAll(), 'all');
  }

  draw(work, kind = 'some') {
    this.waiting ??= new Map();
    if (!this.waiting.size) {
      requestAnimationFrame(() => {
        const waiting = [...this.waiting];
        this.waiting.clear();
        for (const [, act] of waiting) act();
      });
    }
    if (kind === 'all') this.waiting.clear();
    if (kind === 'all' || !this.waiting.has('all')) this.waiting.set(kind === 'all' ? 'all' : String(work), work);
  }

  heatmaps() {
    return [this.map, this.otherMap, this.differenceMap];
  }

  drawAll() {
    const {state} = this;
    const table = this.tableOf(state.run);
    if (!table) return;
    const other = state.other ? this.tableOf(state.other) : undefined;
    const ofUnits = this.layer !== null;
    const {layers, error} = arrange(table, ofUnits ? {...state, filter: ''} : state);
    this.layers = layers;
    this.row = ofUnits ? 'unit' : 'layer';
    fill(this.controls.sort, SORTS[this.row], state.sort);
    this.controls.filter.parentElement.hidden = ofUnits;
    this.controls.colour.disabled = this.controls.axis.disabled = table.linear;
    this.path.hidden = !ofUnits;
    const part = table.layers.length < table.of ? ` (${table.layers.length} of ${table.of}, evenly spaced)` : '';
    this.opened.textContent = `Units of ${state.layer.slice(0, 200)}${part}`;
    this.controls.filter.setCustomValidity(error);
    this.controls.filter.setAttribute('aria-invalid', String(Boolean(error)));
    const time = this.controls.time;
    Object.assign(time, {max: table.steps.length - 1, value: this.column});
    this.main.classList.toggle('two', Boolean(other));

    const {axis} = this;
    const {signed, share} = table;
    const logarithmic = state.colour === 'log' && !table.linear;
    const scale = valueScale(limits(other ? [table, other] : [table], logarithmic), {logarithmic, signed, share});
    const room = Math.max(window.innerHeight - 190, 260);
    const height = Math.min(Math.max(18 * layers.length + 50, 260), room, other ? 480 : 900);
    const shared = {axis, scale, dark: this.dark, height, row: this.row};
    const opens = ofUnits ? new Set() : this.opens;
    const title = ofUnits ? `${state.run}, units of ${state.layer}` : state.run;
    this.map.show({...shared, table, layers, opens, title, names: true});
    for (const map of [this.otherMap, this.differenceMap]) map.figure.hidden = !other;
    if (other) {
      const there = layers.filter((layer) => other.rowOf.has(layer));
      this.otherMap.show({...shared, table: other, layers: there, title: state.other, names: false});
      const difference = table.against(other, axis, logarithmic);
      const common = layers.filter((layer) => difference.rowOf.has(layer));
      this.differenceMap.show({
        ...shared,
        table: difference,
        layers: common,
        scale: valueScale(limits([difference], false), {signed: true}),
        title: logarithmic ? 'log₁₀ (left / middle)' : 'left − middle',
        names: false,
      });
    }
    this.drawCharts(table, other, axis, layers);
    this.drawPins();
    this.mark();
    this.describe();
    performance.mark('rwc drawn');
  }

  drawCharts(table, other, axis, layers) {
    const {state} = this;
    const x = table.times(axis);
    const logarithmic = state.axis === 'log' && !table.linear;
    const range = table.share ? [-0.02, 1.02] : undefined;
    const ofUnits = this.layer !== null;
    const weight = Number(state.smooth);
    const colour = (layer) => this.colourOf(layer, table);
    // Evenly spaced ones, if all would take seconds.
    const every = Math.ceil((layers.length * x.length) / MOST_POINTS);
    const drawn = layers.filter((layer, row) => row % every === 0 || this.pins.includes(layer));
    const curves = drawn.map((layer) => ({
      name: layer,
      values: smooth(table.row(table.rowOf.get(layer)), weight),
      colour: colour(layer),
      width: drawn.length > 60 ? 0.7 : 1.2,
    }));
    const height = Math.max(Math.min(this.map.height * 0.46, 340), 200);
    const some = drawn.length < layers.length ? ` (${drawn.length} of ${layers.length} curves)` : '';
    this.curves.title(`${table.label}, coloured by ${ofUnits ? 'activity' : 'depth'}${some}`);
    const ofCurves = `curves of ${drawn.length} ${this.row}s over ${axis}`;
    this.curves.show(x, curves, {height, xName: axis, logarithmic, range, describe: ofCurves});

    const [main, second] = [depthColour(1, 3, this.dark), this.dark ? '#fdb863' : '#d0730f'];
    const depths = table.layers.map((_, row) => row);
    const points = depths.length <= 300;
    const profiles = [{name: state.run, values: table.column(this.column), colour: main, width: 1.5, points}];
    if (other) {
      const at = other.times(axis).findLastIndex((time) => time <= x[this.column]);
      const theirs = other.column(Math.max(at, 0));
      const values = table.layers.map((layer) => theirs[other.rowOf.get(layer)] ?? NaN);
      profiles.push({name: state.other, values, colour: second, width: 1.5, points});
    }
    const small = Math.max(height * 0.55, 150);
    const order = ofUnits ? 'rank, most active first' : 'depth';
    const describe = `value of each ${this.row} by ${order} at ${axis} ${x[this.column]}`;
    this.profile.title(`${ofUnits ? 'units' : 'depth profile'} at ${axis} ${x[this.column]}`, other ? profiles : []);
    this.profile.show(depths, profiles, {height: small, xName: order, logarithmic, range, describe});

    this.correlation.figure.hidden = ofUnits;
    if (ofUnits) return;
    const rho = table.steps.map((_, column) => depthCorrelation(table.column(column)));
    const lines = [{name: state.run, values: rho, colour: main, width: 1.5}];
    if (other && other.steps.length) {
      const theirs = new Map(other.times(axis).map((time, column) => [time, depthCorrelation(other.column(column))]));
      lines.push({name: state.other, values: x.map((time) => theirs.get(time) ?? NaN), colour: second, width: 1.5});
    }
    this.correlation.title("depth correlation: Spearman's ρ between depth and value", other ? lines : []);
    const ofCorrelation = `depth correlation over ${axis}`;
    this.correlation.show(x, lines, {height: small, xName: axis, range: [-1, 1], describe: ofCorrelation});
  }

  /** The colour of the curve of a layer by its depth, or of a unit by its activity: the most active one is bright. */
  colourOf(name, table) {
    const [row, count] = [table.rowOf.get(name), table.layers.length];
    return depthColour(this.layer === null ? row : count - 1 - row, count, this.dark);
  }

  /** What follows the pointer; cheap for any number of layers. */
  mark() {
    const table = this.tableOf(this.state.run);
    if (!table) return;
    const hover = this.hovered?.layer;
    const {pins, column} = this;
    const at = table.times(this.axis)[column];
    for (const map of this.heatmaps()) map.mark({hover, pins, column: map === this.map ? column : -1});
    this.curves.mark({hover, pins, at});
    this.profile.mark({at: hover === undefined ? null : table.rowOf.get(hover)});
    this.correlation.mark({at});
  }

  describe() {
    const table = this.tableOf(this.state.run);
    const cell = this.hovered;
    if (!table || !cell || !table.rowOf.has(cell.layer) || !(cell.column in table.steps)) {
      const shown = this.layers?.length ?? 0;
      const size = table ? `${shown} of ${table.of} ${this.row}s, ${table.steps.length} measurements` : '';
      this.readout.textContent = this.message || size;
      return;
    }
    const {layer, column} = cell;
    const value = table.row(table.rowOf.get(layer))[column];
    const epoch = table.epochs[column];
    const name = layer.length > 160 ? `${layer.slice(0, 80)}…${layer.slice(-80)}` : layer;
    const parts = [this.layer === null ? name : `unit ${name}`, ...(epoch === null ? [] : [`epoch ${epoch}`]), `step ${table.steps[column]}`, readable(value)];
    const other = this.state.other ? this.tableOf(this.state.other) : undefined;
    if (other?.rowOf.has(layer)) {
      const there = other.times(this.axis).indexOf(table.times(this.axis)[column]);
      if (there >= 0) parts.push(`${this.state.other}: ${readable(other.row(other.rowOf.get(layer))[there])}`);
    }
    if (this.layer === null && this.opens.has(layer)) parts.push('its units: click ▸ or press U');
    this.readout.textContent = parts.join(' · ');
  }

  drawPins() {
    const table = this.tableOf(this.state.run);
    this.pinList.replaceChildren(
      ...this.pins
        .filter((layer) => table.rowOf.has(layer))
        .map((layer) => {
          const button = document.createElement('button');
          Object.assign(button, {type: 'button', textContent: layer.slice(0, 200), title: 'unpin'});
          button.style.borderLeftColor = this.colourOf(layer, table);
          button.addEventListener('click', () => this.pin(layer));
          return button;
        }),
    );
  }

  say(message) {
    this.message = message;
    this.readout.classList.toggle('error', Boolean(message));
    this.describe();
  }

  // ── export ──────────────────────────────────────────────────────────────────────────────────────────────────────

  get fileName() {
    return [this.state.prefix, ...(this.layer === null ? [] : [this.layer])].join('_');
  }

  exportCsv() {
    const table = this.tableOf(this.state.run);
    save(new Blob([csv(table, this.layers)], {type: 'text/csv'}), `${this.fileName}.csv`);
  }

  exportPng() {
    const pictures = [];
    for (const {figure} of [...this.heatmaps(), this.curves, this.profile, this.correlation]) {
      if (figure.hidden) continue;
      const at = figure.getBoundingClientRect();
      const caption = figure.querySelector('figcaption');
      pictures.push({text: caption.textContent, left: at.left, top: at.top + 12});
      for (const canvas of figure.querySelectorAll('canvas')) {
        const box = canvas.getBoundingClientRect();
        pictures.push({canvas, left: box.left, top: box.top, width: box.width, height: box.height});
      }
    }
    const frame = this.main.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    const size = {width: frame.width * ratio, height: frame.height * ratio};
    const sheet = Object.assign(document.createElement('canvas'), size);
    const context = sheet.getContext('2d');
    const style = getComputedStyle(document.documentElement);
    context.scale(ratio, ratio);
    context.fillStyle = style.getPropertyValue('--ground');
    context.fillRect(0, 0, frame.width, frame.height);
    context.fillStyle = style.getPropertyValue('--text');
    context.font = '12px system-ui';
    for (const {canvas, text, left, top, width, height} of pictures) {
      if (canvas) context.drawImage(canvas, left - frame.left, top - frame.top, width, height);
      else context.fillText(text, left - frame.left, top - frame.top);
    }
    sheet.toBlob((blob) => save(blob, `${this.fileName}.png`));
  }

  writeLink() {
    const entries = Object.entries(this.state).filter(([name, value]) => value !== DEFAULTS[name]);
    const own = entries.map(([name, value]) => `p.${PLUGIN}.${name}=${encodeURIComponent(value)}`);
    const host = hostWindow();
    const [tab, ...rest] = host.location.hash.slice(1).split('&');
    const others = rest.filter((part) => !part.startsWith(`p.${PLUGIN}.`));
    host.history.replaceState(host.history.state, '', `#${[tab || PLUGIN, ...others, ...own].join('&')}`);
  }
}

/** The window whose address people copy: TensorBoard's, unless that has another origin. */
function hostWindow() {
  try {
    void window.parent.location.hash;
    return window.parent;
  } catch {
    return window;
  }
}

function readLink() {
  const state = {};
  for (const part of hostWindow().location.hash.slice(1).split('&')) {
    const [key, value = ''] = part.split('=');
    const name = key.startsWith(`p.${PLUGIN}.`) ? key.slice(PLUGIN.length + 3) : '';
    try {
      if (Object.hasOwn(DEFAULTS, name)) state[name] = decodeURIComponent(value);
    } catch {
      // The link was cut in the middle of a character.
    }
  }
  return state;
}

function fill(select, options, chosen) {
  const wanted = JSON.stringify(options);
  if (select.dataset.options !== wanted) {
    select.dataset.options = wanted;
    const option = ([value, text]) =>
      Object.assign(document.createElement('option'), {value, textContent: text.slice(0, 200)});
    select.replaceChildren(...options.map(option));
  }
  select.value = chosen;
}

function save(blob, name) {
  const download = name.replaceAll(/[^\w.-]/g, '_');
  const link = Object.assign(document.createElement('a'), {href: URL.createObjectURL(blob), download});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function emptyPage() {
  const page = Object.assign(document.createElement('section'), {id: 'empty', hidden: true});
  const text = (tag, content) => page.appendChild(Object.assign(document.createElement(tag), {textContent: content}));
  text('h2', 'This log has no relative weight changes yet');
  text('p', 'Add the callback to your Trainer. Its measurements appear here after the first epoch:');
  const code = ['from lightning_rwc import RWCCallback', '', 'trainer = Trainer(callbacks=[RWCCallback()])'];
  text('pre', [...code, 'trainer.fit(model, data)'].join('\n'));
  text('p', 'This page looks again every few seconds.');
  return page;
}
