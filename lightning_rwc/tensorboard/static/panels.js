// SPDX-License-Identifier: Apache-2.0
// The charts beside the heatmap: curves, the depth profile and the depth correlation.
import {LineChart} from './charts.js';
import {depthColour} from './colours.js';
import {depthCorrelation, readable, smooth} from './data.js';

const MOST_POINTS = 300_000;
const DASH = [5, 4];

export class Panels {
  /** @param on what charts call: `hover` and `pin` */
  constructor(parent, on) {
    this.curves = new LineChart(parent, 'curves', on);
    this.profile = new LineChart(parent, 'depth profile', {});
    this.correlation = new LineChart(parent, 'depth correlation', {});
  }

  /**
   * Draw all charts.
   *
   * @param names of the selected run, and perhaps of a second one
   * @param shape {kind, aligned, layers, pins, column, logarithmic, weight, height, dark}; `aligned` is of align.js
   */
  show(names, shape) {
    const {kind, aligned, column, dark, height} = shape;
    const {own, name: axis, curves} = aligned;
    const [table] = own;
    const range = table.share ? [-0.02, 1.02] : undefined;
    const colours = [depthColour(1, 3, dark), dark ? '#fdb863' : '#d0730f'];
    const lines = (values) =>
      own.map((one, index) => ({name: names[index], values: values(one, index), colour: colours[index], width: 1.5}));
    this.showCurves(names, {...shape, range});
    const small = Math.max(height * 0.55, 150);
    this.showProfile(aligned.time(column), lines, {...shape, table, range, height: small});
    this.correlation.figure.hidden = kind === 'unit';
    if (kind === 'unit') return;
    const rho = lines((one, index) => {
      const all = one.steps.map((_, place) => depthCorrelation(one.column(place)));
      return spread(all, curves.at[index]);
    });
    this.correlation.title("depth correlation: Spearman's ρ between depth and value", rho.length > 1 ? rho : []);
    const describe = `depth correlation over ${axis}`;
    this.correlation.show(curves.x, rho, {height: small, xName: axis, range: [-1, 1], describe});
  }

  showCurves(names, {kind, aligned, layers, pins, logarithmic, weight, height, dark, range}) {
    const {own, name: axis, curves} = aligned;
    const [table, other] = own;
    // Evenly spaced ones, if all would take seconds.
    const every = Math.ceil((layers.length * curves.x.length * own.length) / MOST_POINTS);
    const drawn = layers.filter((layer, row) => row % every === 0 || pins.includes(layer));
    const width = drawn.length > 60 ? 0.7 : 1.2;
    const lines = own.flatMap((one, index) =>
      drawn
        .filter((layer) => one.rowOf.has(layer))
        .map((layer) => ({
          name: layer,
          values: spread(smooth(one.row(one.rowOf.get(layer)), weight), curves.at[index]),
          colour: rowColour(layer, table, kind, dark),
          width,
          dash: index ? DASH : undefined,
        })),
    );
    const some = drawn.length < layers.length ? ` (${drawn.length} of ${layers.length} curves)` : '';
    const runs = other ? `: ${names[0].slice(0, 100)} ──, ${names[1].slice(0, 100)} ╌╌` : '';
    this.curves.title(`${table.label}, coloured by ${kind === 'unit' ? 'activity' : 'depth'}${some}${runs}`);
    const describe = `curves of ${drawn.length} ${kind}s over ${axis}${other ? ', the second run dashed' : ''}`;
    this.curves.show(curves.x, lines, {height, xName: axis, logarithmic, range, describe});
  }

  showProfile(time, lines, {kind, aligned, table, column, logarithmic, range, height}) {
    const {name: axis, at} = aligned;
    const depths = table.layers.map((_, row) => row);
    const profiles = lines((one) => {
      if (one === table) return table.column(column);
      const there = at[1][aligned.place(time)];
      const values = there < 0 ? [] : one.column(there);
      return table.layers.map((layer) => values[one.rowOf.get(layer)] ?? NaN);
    }).map((line) => ({...line, points: depths.length <= 300}));
    const order = kind === 'unit' ? 'rank, most active first' : 'depth';
    const describe = `value of each ${kind} by ${order} at ${axis} ${readable(time)}`;
    const title = `${kind === 'unit' ? 'units' : 'depth profile'} at ${axis} ${readable(time)}`;
    this.profile.title(title, profiles.length > 1 ? profiles : []);
    this.profile.show(depths, profiles, {height, xName: order, logarithmic, range, describe});
  }

  /** Highlight rows, the selected time, and the hovered row's depth. */
  mark({hover, pins, at, depth}) {
    this.curves.mark({hover, pins, at});
    this.profile.mark({at: depth});
    this.correlation.mark({at});
  }
}

/** Values at the places that `at` says; undefined elsewhere. */
const spread = (values, at) => Array.from(at, (index) => (index < 0 ? undefined : values[index]));

/** The colour of the curve of a layer by its depth, or of a unit by its activity: the most active one is bright. */
export function rowColour(name, table, kind, dark) {
  const [row, count] = [table.rowOf.get(name), table.layers.length];
  return depthColour(kind === 'unit' ? count - 1 - row : row, count, dark);
}
