// SPDX-License-Identifier: Apache-2.0
// The view of all runs: which of them are shown, in which order and groups.
import {add, fill} from './dom.js';
import {SmallMaps} from './small_maps.js';
import {filtered, grouped, sorted} from './sweep.js';

const ORDERS = [
  ['name', 'by name'],
  ['newest', 'newest first'],
  ['lowest', 'lowest scalar first'],
  ['highest', 'highest scalar first'],
];
const MOST_RUNS = 100;

export class AllRuns {
  /**
   * @param store of store.js
   * @param fetchScalars called with nothing, for tags, or with a tag, for the last value of each run
   * @param on.set called with {name: value}
   * @param on.say called with what is under the pointer, in parts, and with what is shown
   */
  constructor(parent, store, fetchScalars, on) {
    Object.assign(this, {store, fetchScalars, on, names: [], groups: [], values: {}, loaded: false, turn: 0});
    this.form = add(parent, 'form', {hidden: true});
    this.section = add(parent, 'section', {id: 'allRuns', hidden: true});
    this.form.addEventListener('submit', (event) => event.preventDefault());
    this.fields = {};
    this.field('runs', 'runs (regular expression)', 'input', {type: 'search'});
    this.field('group', 'group runs that differ in *', 'input', {type: 'search', placeholder: 'seed_*'});
    this.field('scalar', 'scalar', 'select');
    this.field('order', 'order', 'select');
    const say = (parts) => on.say(parts, this.summary);
    this.maps = new SmallMaps(this.section, {say, open: (group) => this.open(group)});
  }

  field(name, label, tag, properties = {}) {
    const wrap = add(this.form, 'label');
    wrap.append(label);
    const element = (this.fields[name] = add(wrap, tag, {name, ...properties}));
    const act = () => this.on.set({[name]: element.value, ...(name === 'scalar' ? this.orderBy(element.value) : {})});
    element.addEventListener(tag === 'input' ? 'input' : 'change', act);
  }

  /** Whoever chooses a scalar wants to sort by it. */
  orderBy(scalar) {
    const {value} = this.fields.order;
    const byScalar = ['lowest', 'highest'].includes(value);
    return scalar ? {order: byScalar ? value : 'lowest'} : {order: byScalar ? 'name' : value};
  }

  set hidden(hidden) {
    this.form.hidden = this.section.hidden = hidden;
  }

  /** What is shown, in one line. */
  get summary() {
    const broken = this.broken ? 'not a regular expression, so the runs are those of before · ' : '';
    return broken + this.maps.summary;
  }

  /** Show the run that was clicked, or the runs of a group one by one. */
  open({name, runs}) {
    if (runs.length === 1) return this.on.set({view: '', run: name});
    const parts = name.split('*').map((part) => part.replaceAll(/[\\^$.+?()[\]{}|]/g, '\\$&'));
    this.on.set({group: '', runs: `^${parts.join('[^/]*')}$`});
  }

  /** Fetch what is shown. Returns whether anything has changed, unless a later call has begun. */
  async load(state) {
    const turn = ++this.turn;
    const series = this.store.series.filter(({layer, prefix}) => layer === null && prefix === state.prefix);
    const newest = Object.fromEntries(series.map((one) => [one.run, one.newest]));
    const [{tags}, {values}] = await Promise.all([
      this.fetchScalars(),
      state.scalar ? this.fetchScalars(state.scalar) : {values: {}},
    ]);
    if (turn !== this.turn) return false;
    const kept = filtered(Object.keys(newest), state.runs);
    this.names = kept ?? this.names.filter((name) => name in newest);
    const order = state.scalar || !['lowest', 'highest'].includes(state.order) ? state.order : 'name';
    const groups = sorted(grouped(this.names, state.group), order, order === 'newest' ? newest : values);
    let count = 0;
    this.groups = groups.filter(({runs}) => (count += runs.length) <= MOST_RUNS || count === runs.length);
    this.left = this.names.length - this.groups.flatMap(({runs}) => runs).length;
    this.broken = kept === null;
    this.offer({...state, order}, tags);
    this.values = values;
    const drawn = JSON.stringify([this.groups, values, this.left, this.broken]);
    const loaded = await this.store.load(this.groups.flatMap(({runs}) => runs), state);
    if (turn !== this.turn) return false;
    const before = this.drawn;
    Object.assign(this, {drawn, loaded: true});
    return loaded || drawn !== before;
  }

  offer(state, tags) {
    const {scalar, order, runs} = this.fields;
    fill(scalar, [['', 'none'], ...tags.map((tag) => [tag, tag])], state.scalar);
    fill(order, state.scalar ? ORDERS : ORDERS.slice(0, 2), state.order);
    for (const name of ['runs', 'group']) {
      if (document.activeElement !== this.fields[name]) this.fields[name].value = state[name];
    }
    runs.setAttribute('aria-invalid', String(this.broken));
    runs.setCustomValidity(this.broken ? 'not a regular expression' : '');
  }

  /** Draw the maps; `tableOf` gives the table of a run, and `shape` is of SmallMaps. */
  show(tableOf, {scalar}, shape) {
    const {values, left} = this;
    this.maps.show(this.groups, tableOf, {...shape, values, left, scalar});
  }
}
