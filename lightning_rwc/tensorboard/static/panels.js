// SPDX-License-Identifier: Apache-2.0
// The charts over time: curves, and the depth correlation.
import {LineChart} from './charts.js';
import {lostSince, smooth} from './data.js';
import {rowColour, runColours} from './depths.js';

const MOST_POINTS = 300_000;

export class Panels {
  /** @param on what charts call: `hover` and `pin` */
  constructor(parent, on) {
    this.curves = new LineChart(parent, 'curves', on);
    this.correlation = new LineChart(parent, 'depth correlation', {});
  }

  /**
   * Draw all charts.
   *
   * @param runs [{name, table}]: the selected run, and perhaps a second one
   * @param shape {kind, axis, layers, pins, logarithmic, weight, height, dark}
   */
  show(runs, shape) {
    this.showCurves(runs[0].table, shape);
    this.showCorrelation(runs, shape);
  }

  showCurves(table, {kind, axis, layers, pins, logarithmic, weight, height, dark}) {
    const x = table.times(axis);
    // Evenly spaced ones, if all would take seconds.
    const every = Math.ceil((layers.length * x.length) / MOST_POINTS);
    const drawn = layers.filter((layer, row) => row % every === 0 || pins.includes(layer));
    const curves = drawn.map((layer) => ({
      name: layer,
      values: smooth(table.row(table.rowOf.get(layer)), weight),
      colour: rowColour(layer, table, dark),
      width: drawn.length > 60 ? 0.7 : 1.2,
    }));
    const some = drawn.length < layers.length ? ` (${drawn.length} of ${layers.length} curves)` : '';
    const lost = lostSince(table, layers);
    const gone = lost > 0 ? `; every value is nan since ${axis} ${x[lost]}` : '';
    this.curves.title(`curves, coloured by ${kind === 'unit' ? 'activity' : 'depth'}${some}${gone}`);
    this.curves.show(x, curves, {
      height,
      xName: axis,
      yName: table.label,
      logarithmic,
      range: table.share ? [-0.02, 1.02] : undefined,
      describe: `curves of ${drawn.length} ${kind}s over ${axis}`,
      nothing: nothing(table, layers, axis),
    });
  }

  /** The one that was logged. Only relative weight change has one. */
  showCorrelation(runs, {axis, height, dark}) {
    const logged = runs.filter(({table}) => table.correlation?.some((value) => value !== null));
    this.correlation.figure.hidden = !logged.length;
    if (!logged.length) return;
    const x = runs[0].table.times(axis);
    const points = x.length <= 100;
    const lines = logged.map(({name, table}) => {
      const times = table.times(axis);
      const at = new Map(table.correlation.map((value, index) => [times[index], value ?? NaN]));
      const values = x.map((time) => at.get(time) ?? NaN);
      return {name, values, colour: runColours(dark)[runs.findIndex((run) => run.table === table)], width: 1.5, points};
    });
    this.correlation.title('depth correlation', lines.length > 1 ? lines : []);
    this.correlation.show(x, lines, {
      height: Math.max(height * 0.55, 150),
      xName: axis,
      yName: "Spearman's ρ",
      range: [-1, 1],
      describe: `depth correlation over ${axis}`,
    });
  }

  /** Highlight rows, and the selected time. */
  mark({hover, pins, at}) {
    this.curves.mark({hover, pins, at});
    this.correlation.mark({at});
  }
}

function nothing(table, layers, axis) {
  if (!layers.length) return 'No row is shown.';
  const lost = lostSince(table, layers);
  return lost >= 0 ? `Every value is nan since ${axis} ${table.times(axis)[lost]}.` : 'No value is above zero.';
}
