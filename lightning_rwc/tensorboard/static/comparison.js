// SPDX-License-Identifier: Apache-2.0
// A second run beside the selected one: its heatmap, and their difference.
import {Heatmap} from './heatmap.js';
import {diverging} from './scales.js';

export class Comparison {
  /**
   * @param view the zoom that all heatmaps share
   * @param on what heatmaps call; `hover` gets cells of the selected run
   */
  constructor(parent, view, on) {
    const beside = (map) => ({
      ...on,
      select: () => {},
      hover: (cell) => on.hover(cell && this.here(cell, map().table)),
    });
    this.other = new Heatmap(parent, view, beside(() => this.other));
    this.difference = new Heatmap(parent, view, beside(() => this.difference));
  }

  get maps() {
    return [this.other, this.difference];
  }

  /** The cell of the selected run at the time of a cell of another table. Its column is -1 if there is none. */
  here({layer, column}, table) {
    const time = table.times(this.axis)[column];
    return {layer, column: this.table.times(this.axis).indexOf(time)};
  }

  hide() {
    for (const map of this.maps) map.figure.hidden = true;
  }

  /**
   * Draw `other` beside `table`.
   *
   * @param shape what the heatmap of `table` is drawn with: {axis, scale, looks, height, kind, names}
   * @param title the name of the second run
   */
  show({table, other, layers, shape, title}) {
    const {axis} = shape;
    const {logarithmic} = shape.scale;
    Object.assign(this, {table, axis});
    for (const map of this.maps) map.figure.hidden = false;
    const there = layers.filter((layer) => other.rowOf.has(layer));
    this.other.show({...shape, table: other, layers: there, title});
    const difference = table.against(other, axis, logarithmic);
    const common = layers.filter((layer) => difference.rowOf.has(layer));
    const finite = difference.values.filter(Number.isFinite);
    const reach = finite.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    this.difference.show({
      ...shape,
      table: difference,
      layers: common,
      scale: diverging(reach || 1, ''),
      title: logarithmic ? 'log₁₀ (left / middle)' : 'left − middle',
    });
  }
}
