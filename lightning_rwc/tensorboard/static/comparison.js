// SPDX-License-Identifier: Apache-2.0
// A second run beside the selected one: its heatmap, and their difference.
import {valueScale} from './colours.js';
import {limits} from './data.js';
import {Heatmap} from './heatmap.js';

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
   * @param shape what the heatmap of `table` is drawn with: {axis, scale, dark, height, row}
   * @param title the name of the second run
   */
  show({table, other, layers, shape, title, logarithmic}) {
    const {axis} = shape;
    Object.assign(this, {table, axis});
    for (const map of this.maps) map.figure.hidden = false;
    const there = layers.filter((layer) => other.rowOf.has(layer));
    this.other.show({...shape, table: other, layers: there, title, names: false});
    const difference = table.against(other, axis, logarithmic);
    this.difference.show({
      ...shape,
      table: difference,
      layers: layers.filter((layer) => difference.rowOf.has(layer)),
      scale: valueScale(limits([difference], false), {signed: true}),
      title: logarithmic ? 'log₁₀ (left / middle)' : 'left − middle',
      names: false,
    });
  }
}
