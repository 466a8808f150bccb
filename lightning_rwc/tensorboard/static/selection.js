// SPDX-License-Identifier: Apache-2.0
// What the user has chosen. All of it is in the link.

/**
 * What a link can hold. `time` is a step, or empty for the newest. `layer` is the one whose units are shown. `colour`
 * is empty for what the server says. With `fold`, a row is a block.
 */
export const DEFAULTS = {
  run: '',
  other: '',
  by: '',
  view: '',
  runs: '',
  group: '',
  scalar: '',
  order: 'name',
  prefix: '',
  layer: '',
  sort: 'depth',
  filter: '',
  fold: '',
  colour: '',
  axis: 'log',
  smooth: '0',
  time: '',
  pins: '',
  unitPins: '',
};

export class Selection {
  /** @param changed called with the names of what has changed */
  constructor(state, changed) {
    this.state = {...DEFAULTS, ...state};
    this.changed = changed;
  }

  set(change) {
    Object.assign(this.state, change);
    this.changed(Object.keys(change));
  }

  /** The layer whose units are shown, or null. */
  get layer() {
    return this.state.layer || null;
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

  /** Pin a row, or release it. */
  pin(name) {
    const {pins} = this;
    this.set(this.pinOnly(pins.includes(name) ? pins.filter((one) => one !== name) : [...pins, name]));
  }

  /** The change that pins these rows and no others. */
  pinOnly(names) {
    return {[this.pinned]: names.length ? JSON.stringify(names) : ''};
  }

  /** The column of the selected measurement among `steps`. If TensorBoard has left it out, that of the nearest one. */
  column(steps) {
    const last = steps.length - 1;
    const away = (column) => Math.abs(steps[column] - Number(this.state.time));
    return this.state.time === '' ? last : steps.reduce((best, _, at) => (away(at) < away(best) ? at : best), last);
  }

  select(column, steps) {
    this.set(this.timeOf(column, steps));
  }

  /** The change that selects a measurement. The newest one stays the newest when the run grows. */
  timeOf(column, steps) {
    return {time: column >= steps.length - 1 ? '' : String(steps[column])};
  }
}
