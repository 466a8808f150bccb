// SPDX-License-Identifier: Apache-2.0
// The charts over time: curves, and the depth correlation.
import {LineChart} from './charts.js';
import {lostSince, readable, smooth} from './data.js';
import {rowColour, runColours} from './depths.js';

const MOST_POINTS = 300_000;
const DASH = [5, 4];

export class Panels {
  /** @param on what charts call: `hover` and `pin` */
  constructor(parent, on) {
    this.curves = new LineChart(parent, 'curves', on);
    this.correlation = new LineChart(parent, 'depth correlation', {});
  }

  /**
   * Draw all charts.
   *
   * @param names of the selected run, and perhaps of a second one
   * @param shape {kind, aligned, layers, pins, logarithmic, weight, height, dark}; `aligned` is of align.js
   */
  show(names, shape) {
    this.showCurves(names, shape);
    this.showCorrelation(names, shape);
  }

  showCurves(names, {kind, aligned, layers, pins, logarithmic, weight, height, dark}) {
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
          colour: rowColour(layer, table, dark),
          width,
          dash: index ? DASH : undefined,
        })),
    );
    const some = drawn.length < layers.length ? ` (${drawn.length} of ${layers.length} curves)` : '';
    const lost = lostSince(table, layers);
    const gone = lost > 0 ? `; every value is nan since ${axis} ${readable(aligned.time(lost))}` : '';
    const runs = other ? `: ${names[0].slice(0, 100)} ──, ${names[1].slice(0, 100)} ╌╌` : '';
    this.curves.title(`curves, coloured by ${kind === 'unit' ? 'activity' : 'depth'}${some}${gone}${runs}`);
    this.curves.show(curves.x, lines, {
      height,
      xName: axis,
      yName: table.label,
      logarithmic,
      range: table.share ? [-0.02, 1.02] : undefined,
      describe: `curves of ${drawn.length} ${kind}s over ${axis}${other ? ', the second run dashed' : ''}`,
      nothing: nothing(table, layers, aligned),
    });
  }

  /** The one that was logged. Only relative weight change has one. */
  showCorrelation(names, {aligned, height, dark}) {
    const {own, name: axis, curves} = aligned;
    const points = curves.x.length <= 100;
    const lines = own.flatMap(({correlation}, index) => {
      if (!correlation?.some((value) => value !== null)) return [];
      const values = spread(correlation.map((value) => value ?? NaN), curves.at[index]);
      return [{name: names[index], values, colour: runColours(dark)[index], width: 1.5, points}];
    });
    this.correlation.figure.hidden = !lines.length;
    if (!lines.length) return;
    this.correlation.title('depth correlation', lines.length > 1 ? lines : []);
    this.correlation.show(curves.x, lines, {
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

/** Values at the places that `at` says; undefined elsewhere. */
const spread = (values, at) => Array.from(at, (index) => (index < 0 ? undefined : values[index]));

function nothing(table, layers, aligned) {
  if (!layers.length) return 'No row is shown.';
  const lost = lostSince(table, layers);
  if (lost < 0) return 'No value is above zero.';
  return `Every value is nan since ${aligned.name} ${readable(aligned.time(lost))}.`;
}
