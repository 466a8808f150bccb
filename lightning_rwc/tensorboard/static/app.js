// SPDX-License-Identifier: Apache-2.0
// The page: its controls, what is selected, and what is drawn when that changes. Names from logs only ever become text.
import {LineChart} from './charts.js';
import {depthColour, valueScale} from './colours.js';
import {arrange, axisOf, csv, depthCorrelation, fetchSeries, fetchTable, limits, readable, smooth} from './data.js';
import {Heatmap} from './heatmap.js';

const PLUGIN = 'lightning_rwc';
const POLL_MS = 5000;
// What a link can hold. `time` is a step, or empty for the newest measurement.
const DEFAULTS = {
  run: '',
  other: '',
  prefix: '',
  sort: 'depth',
  filter: '',
  colour: 'log',
  axis: 'log',
  smooth: '0',
  time: '',
  pins: '',
};

export class App {
  constructor(body) {
    this.body = body;
    this.state = {...DEFAULTS, ...readLink()};
    this.view = {x0: 0, x1: 1, y0: 0, y1: 1};
    this.hovered = null;
    this.tables = {};
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
    choice('sort', 'rows', [['depth', 'as defined'], ['value', 'by last value'], ['name', 'by name']]);
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
    this.pinList = element('div', 'pins');
    this.main = element('main', 'charts');
    this.maps = element('div', 'maps', this.main);
    const side = element('div', 'side', this.main);
    const on = {
      hover: (cell) => this.hover(cell),
      pin: (layer) => this.pin(layer),
      select: (column) => this.selectColumn(column),
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
    const runs = [...new Set(this.series.map(({run}) => run))].sort(new Intl.Collator('en', {numeric: true}).compare);
    this.empty.hidden = runs.length > 0;
    this.main.hidden = this.form.hidden = runs.length === 0;
    if (!runs.length) return;
    const {state} = this;
    if (!runs.includes(state.run)) state.run = runs[0];
    if (!runs.includes(state.other)) state.other = '';
    const tables = this.series.filter(({run}) => run === state.run);
    if (!tables.some(({prefix}) => prefix === state.prefix)) state.prefix = tables[0].prefix;
    const choices = runs.map((run) => [run, run]);
    fill(this.controls.run, choices, state.run);
    fill(this.controls.other, [['', 'none'], ...choices.filter(([run]) => run !== state.run)], state.other);
    fill(this.controls.prefix, tables.map(({prefix, label}) => [prefix, `${prefix}: ${label}`]), state.prefix);
    const wanted = {};
    for (const run of [state.run, state.other]) {
      const series = this.series.find((one) => one.run === run && one.prefix === state.prefix);
      if (!series) continue;
      const key = JSON.stringify([run, state.prefix]);
      const known = this.tables[key];
      wanted[key] = known?.newest === series.newest ? known : {...series, table: await fetchTable(run, state.prefix)};
    }
    const before = this.tables;
    this.tables = wanted;
    const keys = Object.keys({...before, ...wanted});
    if (keys.some((key) => before[key] !== wanted[key])) this.schedule();
  }

  tableOf(run) {
    return this.tables[JSON.stringify([run, this.state.prefix])]?.table;
  }

  /** What the selected run, and the one to compare with, are drawn over. */
  get axis() {
    return axisOf([this.tableOf(this.state.run), this.tableOf(this.state.other)].filter(Boolean));
  }

  // ── selection ───────────────────────────────────────────────────────────────────────────────────────────────────

  set(change) {
    Object.assign(this.state, change);
    this.writeLink();
    if ('run' in change || 'other' in change || 'prefix' in change) {
      this.load().catch((error) => this.say(error.message));
    }
    this.schedule();
  }

  get pins() {
    try {
      return this.state.pins ? JSON.parse(this.state.pins).filter((layer) => typeof layer === 'string') : [];
    } catch {
      return [];
    }
  }

  pin(layer) {
    const pins = this.pins.includes(layer) ? this.pins.filter((one) => one !== layer) : [...this.pins, layer];
    this.set({pins: pins.length ? JSON.stringify(pins) : ''});
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
    const {layers, error} = arrange(table, state);
    this.layers = layers;
    this.controls.filter.setCustomValidity(error);
    this.controls.filter.setAttribute('aria-invalid', String(Boolean(error)));
    const time = this.controls.time;
    Object.assign(time, {max: table.steps.length - 1, value: this.column});
    this.main.classList.toggle('two', Boolean(other));

    const {axis} = this;
    const {signed} = table;
    const logarithmic = state.colour === 'log' && !signed;
    const scale = valueScale(limits(other ? [table, other] : [table], logarithmic), {logarithmic, signed});
    const room = Math.max(window.innerHeight - 190, 260);
    const height = Math.min(Math.max(18 * layers.length + 50, 260), room, other ? 480 : 900);
    const shared = {axis, scale, dark: this.dark, height};
    this.map.show({...shared, table, layers, title: state.run, names: true});
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
    const logarithmic = state.axis === 'log' && !table.signed;
    const weight = Number(state.smooth);
    const colour = (layer) => depthColour(table.rowOf.get(layer), table.layers.length, this.dark);
    const curves = layers.map((layer) => ({
      name: layer,
      values: smooth(table.row(table.rowOf.get(layer)), weight),
      colour: colour(layer),
      width: layers.length > 60 ? 0.7 : 1.2,
    }));
    const height = Math.max(Math.min(this.map.height * 0.46, 340), 200);
    this.curves.title(`${table.label}, coloured by depth`);
    const ofCurves = `curves of ${layers.length} layers over ${axis}`;
    this.curves.show(x, curves, {height, xName: axis, logarithmic, describe: ofCurves});

    const [main, second] = [depthColour(1, 3, this.dark), this.dark ? '#fdb863' : '#d0730f'];
    const depths = table.layers.map((_, row) => row);
    const profiles = [{name: state.run, values: table.column(this.column), colour: main, width: 1.5, points: true}];
    if (other) {
      const at = other.times(axis).findLastIndex((time) => time <= x[this.column]);
      const theirs = other.column(Math.max(at, 0));
      const values = table.layers.map((layer) => theirs[other.rowOf.get(layer)] ?? NaN);
      profiles.push({name: state.other, values, colour: second, width: 1.5, points: true});
    }
    const small = Math.max(height * 0.55, 150);
    const describe = `value of each layer by depth at ${axis} ${x[this.column]}`;
    this.profile.title(`depth profile at ${axis} ${x[this.column]}`, other ? profiles : []);
    this.profile.show(depths, profiles, {height: small, xName: 'depth', logarithmic, describe});

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
      const size = table ? `${shown} of ${table.layers.length} layers, ${table.steps.length} measurements` : '';
      this.readout.textContent = this.message || size;
      return;
    }
    const {layer, column} = cell;
    const value = table.row(table.rowOf.get(layer))[column];
    const epoch = table.epochs[column];
    const name = layer.length > 160 ? `${layer.slice(0, 80)}…${layer.slice(-80)}` : layer;
    const parts = [name, ...(epoch === null ? [] : [`epoch ${epoch}`]), `step ${table.steps[column]}`, readable(value)];
    const other = this.state.other ? this.tableOf(this.state.other) : undefined;
    if (other?.rowOf.has(layer)) {
      const there = other.times(this.axis).indexOf(table.times(this.axis)[column]);
      if (there >= 0) parts.push(`${this.state.other}: ${readable(other.row(other.rowOf.get(layer))[there])}`);
    }
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
          button.style.borderLeftColor = depthColour(table.rowOf.get(layer), table.layers.length, this.dark);
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

  exportCsv() {
    const table = this.tableOf(this.state.run);
    save(new Blob([csv(table, this.layers)], {type: 'text/csv'}), `${this.state.prefix}.csv`);
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
    sheet.toBlob((blob) => save(blob, `${this.state.prefix}.png`));
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
