// SPDX-License-Identifier: Apache-2.0
// The charts beside the heatmap: curves, the depth profile and the depth correlation.
import {LineChart} from './charts.js';
import {depthColour} from './colours.js';
import {depthCorrelation, smooth} from './data.js';

const MOST_POINTS = 300_000;

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
   * @param runs [{name, table}]: the selected run, and perhaps a second one
   * @param shape {kind, axis, layers, pins, column, logarithmic, weight, height, dark}
   */
  show(runs, shape) {
    const [{table}] = runs;
    const {kind, axis, column, dark, height} = shape;
    const x = table.times(axis);
    const range = table.share ? [-0.02, 1.02] : undefined;
    const colours = [depthColour(1, 3, dark), dark ? '#fdb863' : '#d0730f'];
    const lines = (values) =>
      runs.map((one, index) => ({name: one.name, values: values(one.table), colour: colours[index], width: 1.5}));
    this.showCurves(table, {...shape, range});
    const small = Math.max(height * 0.55, 150);
    this.showProfile(x[column], lines, {...shape, table, x, range, height: small});
    this.correlation.figure.hidden = kind === 'unit';
    if (kind === 'unit') return;
    const rho = lines((one) => {
      const times = one.times(axis);
      const at = new Map(one.steps.map((_, index) => [times[index], depthCorrelation(one.column(index))]));
      return x.map((time) => at.get(time) ?? NaN);
    });
    this.correlation.title("depth correlation: Spearman's ρ between depth and value", rho.length > 1 ? rho : []);
    const describe = `depth correlation over ${axis}`;
    this.correlation.show(x, rho, {height: small, xName: axis, range: [-1, 1], describe});
  }

  showCurves(table, {kind, axis, layers, pins, logarithmic, weight, height, dark, range}) {
    const x = table.times(axis);
    // Evenly spaced ones, if all would take seconds.
    const every = Math.ceil((layers.length * x.length) / MOST_POINTS);
    const drawn = layers.filter((layer, row) => row % every === 0 || pins.includes(layer));
    const curves = drawn.map((layer) => ({
      name: layer,
      values: smooth(table.row(table.rowOf.get(layer)), weight),
      colour: rowColour(layer, table, kind, dark),
      width: drawn.length > 60 ? 0.7 : 1.2,
    }));
    const some = drawn.length < layers.length ? ` (${drawn.length} of ${layers.length} curves)` : '';
    this.curves.title(`${table.label}, coloured by ${kind === 'unit' ? 'activity' : 'depth'}${some}`);
    const describe = `curves of ${drawn.length} ${kind}s over ${axis}`;
    this.curves.show(x, curves, {height, xName: axis, logarithmic, range, describe});
  }

  showProfile(time, lines, {kind, table, axis, column, x, logarithmic, range, height}) {
    const depths = table.layers.map((_, row) => row);
    const profiles = lines((one) => {
      if (one === table) return table.column(column);
      const at = one.times(axis).findLastIndex((there) => there <= x[column]);
      const values = one.column(Math.max(at, 0));
      return table.layers.map((layer) => values[one.rowOf.get(layer)] ?? NaN);
    }).map((line) => ({...line, points: depths.length <= 300}));
    const order = kind === 'unit' ? 'rank, most active first' : 'depth';
    const describe = `value of each ${kind} by ${order} at ${axis} ${time}`;
    const title = `${kind === 'unit' ? 'units' : 'depth profile'} at ${axis} ${time}`;
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

/** The colour of the curve of a layer by its depth, or of a unit by its activity: the most active one is bright. */
export function rowColour(name, table, kind, dark) {
  const [row, count] = [table.rowOf.get(name), table.layers.length];
  return depthColour(kind === 'unit' ? count - 1 - row : row, count, dark);
}
