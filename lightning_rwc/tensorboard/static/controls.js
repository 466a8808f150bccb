// SPDX-License-Identifier: Apache-2.0
// The form above the map. It shows what is chosen and says what the user chooses.
import {axisChoices} from './align.js';
import {add, fill} from './dom.js';
import {foldable} from './rows.js';
import {chosenColour, colourChoices} from './scales.js';

const SORTS = {
  layer: [['depth', 'as defined'], ['value', 'by last value'], ['name', 'by name']],
  unit: [['depth', 'most active first'], ['value', 'by last value'], ['name', 'by number']],
};
/** What the view of all runs does not need. */
const OF_ONE_RUN = ['run', 'other', 'layer', 'axis', 'smooth', 'time', 'play', 'PNG', 'CSV'];
const AXES = [['log', 'logarithmic'], ['linear', 'linear']];

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
    const fold = this.field('fold', 'fold blocks', 'input');
    Object.assign(fold, {type: 'checkbox', checked: Boolean(state.fold)});
    fold.addEventListener('change', () => on.set({fold: fold.checked ? 'blocks' : ''}));
    this.choice('colour', 'colour', []);
    this.choice('axis', 'axis of curves', AXES);
    this.input('smooth', 'smoothing', {type: 'range', min: 0, max: 0.98, step: 0.02, value: state.smooth});
    const time = {type: 'range', min: 0, max: 0, step: 1, value: 0};
    this.input('time', 'measurement', time, (column) => on.select(Number(column)));
    for (const name of ['sort', 'axis']) this.fields[name].value = state[name];
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

  /** Show what nothing else than the user changes, unless a link does. */
  restore(state) {
    for (const name of ['filter', 'axis', 'smooth']) this.fields[name].value = state[name];
    this.fields.fold.checked = Boolean(state.fold);
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

  /** Show that all runs are drawn; `table` is any of them as the server has it, and `axis` of align.js. */
  showAll({state, table, axis, error}) {
    this.form.classList.add('allRuns');
    this.showShared({state, table, kind: 'layer', axis, error});
  }

  showShared({state, table, kind, axis: {tables, by}, error}) {
    const {sort, filter, fold, colour} = this.fields;
    fill(this.fields.by, axisChoices(tables), by);
    this.fields.by.parentElement.hidden = tables.length < 2;
    fill(sort, SORTS[kind] ?? SORTS.layer, state.sort);
    filter.parentElement.hidden = kind === 'unit';
    filter.setCustomValidity(error);
    filter.setAttribute('aria-invalid', String(Boolean(error)));
    if (!table) return;
    fold.parentElement.hidden = !foldable(table);
    fill(colour, colourChoices(table), chosenColour(table, state.colour));
    colour.disabled = table.linear;
  }

  /**
   * Show what is drawn.
   *
   * @param drawn {state, table, kind, error, axis, column, columns}: the table as the server has it, what a row is,
   *   what is wrong with the filter, {tables, by} of align.js, and the selected column of how many
   */
  show({column, columns, ...shared}) {
    this.form.classList.remove('allRuns');
    this.showShared(shared);
    const {axis, time} = this.fields;
    axis.disabled = shared.table.linear;
    Object.assign(time, {max: columns - 1, value: column});
  }
}
