// SPDX-License-Identifier: Apache-2.0
// The form above the map. It shows what is chosen and says what the user chooses.
import {AXES, possible} from './align.js';
import {add, fill} from './dom.js';

const SORTS = {
  layer: [['depth', 'as defined'], ['value', 'by last value'], ['name', 'by name']],
  unit: [['depth', 'most active first'], ['value', 'by last value'], ['name', 'by number']],
};
/** What the view of all runs does not need. */
const OF_ONE_RUN = ['run', 'other', 'layer', 'axis', 'smooth', 'time', 'play', 'PNG', 'CSV'];
const SCALES = [['log', 'logarithmic'], ['linear', 'linear']];

export class Controls {
  /**
   * @param on.set called with {name: value}
   * @param on.open called with a layer, or with '' for all layers
   * @param on.select called with a column
   * @param on.play, on.png, on.csv called when the buttons are pressed
   */
  constructor(parent, state, on) {
    this.on = on;
    this.form = add(parent, 'form');
    this.form.addEventListener('submit', (event) => event.preventDefault());
    this.fields = {};
    this.choice('view', 'view', [['', 'one run'], ['all', 'all runs']], (view) => on.set({view, layer: ''}));
    this.choice('run', 'run', []);
    this.choice('other', 'compare with', []);
    this.choice('by', 'align by', []);
    this.choice('prefix', 'quantity', []);
    this.choice('layer', 'layer', [], (layer) => on.open(layer));
    this.choice('sort', 'rows', SORTS.layer);
    this.input('filter', 'layers (regular expression)', {type: 'search', value: state.filter});
    this.choice('colour', 'colour', SCALES);
    this.choice('axis', 'axis', SCALES);
    this.input('smooth', 'smoothing', {type: 'range', min: 0, max: 0.98, step: 0.02, value: state.smooth});
    const time = {type: 'range', min: 0, max: 0, step: 1, value: 0};
    this.input('time', 'measurement', time, (column) => on.select(Number(column)));
    for (const name of ['sort', 'colour', 'axis']) this.fields[name].value = state[name];
    for (const [name, act] of [['play', on.play], ['PNG', on.png], ['CSV', on.csv]]) {
      const button = add(this.form, 'button', {type: 'button', textContent: name, name});
      button.addEventListener('click', act);
      this.fields[name] = button;
    }
    for (const name of OF_ONE_RUN) (this.fields[name].closest('label') ?? this.fields[name]).classList.add('one');
  }

  choice(name, label, options, act = (value) => this.on.set({[name]: value})) {
    const select = this.field(name, label, 'select');
    fill(select, options, '');
    select.addEventListener('change', () => act(select.value));
  }

  input(name, label, properties, act = (value) => this.on.set({[name]: value})) {
    const input = Object.assign(this.field(name, label, 'input'), properties);
    input.addEventListener('input', () => act(input.value));
  }

  field(name, label, tag) {
    const wrap = add(this.form, 'label');
    wrap.append(label);
    this.fields[name] = add(wrap, tag, {name});
    return this.fields[name];
  }

  set hidden(hidden) {
    this.form.hidden = hidden;
  }

  set playing(playing) {
    this.fields.play.textContent = playing ? 'stop' : 'play';
  }

  /** Show what can be chosen: {runs, tables, opens, state} of store.js. */
  offer({runs, tables, opens, state}) {
    const names = runs.map((run) => [run, run]);
    this.fields.view.value = state.view;
    fill(this.fields.run, names, state.run);
    fill(this.fields.other, [['', 'none'], ...names.filter(([run]) => run !== state.run)], state.other);
    fill(this.fields.prefix, tables.map(({prefix, label}) => [prefix, `${prefix}: ${label}`]), state.prefix);
    const opened = [...opens].map((name) => [name, `units of ${name}`]);
    fill(this.fields.layer, [['', 'all layers'], ...opened], state.layer);
    this.fields.layer.parentElement.hidden = !opened.length;
  }

  /** Show that all runs are drawn, aligned as `by` says. */
  showAll(tables, by) {
    this.form.classList.add('all');
    this.alignments(tables, by);
    this.fields.by.parentElement.hidden = false;
  }

  alignments(tables, by) {
    fill(this.fields.by, possible(tables).map((one) => [one, AXES[one]]), by);
  }

  /**
   * Show what is drawn.
   *
   * @param drawn {state, kind, error, linear, column, columns, aligned}: what a row is, 'layer' or 'unit', what is wrong with
   *   the filter, whether scales are linear whatever the user chooses, and the selected column of how many,
   *   and the axis of align.js
   */
  show({state, kind, error, linear, column, columns, aligned}) {
    this.form.classList.remove('all');
    const {by, sort, filter, colour, axis, time} = this.fields;
    this.alignments(aligned.own, aligned.by);
    by.parentElement.hidden = aligned.own.length < 2;
    fill(sort, SORTS[kind], state.sort);
    filter.parentElement.hidden = kind === 'unit';
    filter.setCustomValidity(error);
    filter.setAttribute('aria-invalid', String(Boolean(error)));
    colour.disabled = axis.disabled = linear;
    Object.assign(time, {max: columns - 1, value: column});
  }
}
