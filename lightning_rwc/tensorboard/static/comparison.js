// SPDX-License-Identifier: Apache-2.0
// A second run beside the selected one: its heatmap, their difference, and which layers they share.
import {matching} from './align.js';
import {differenceScale} from './colours.js';
import {difference, inWords, reach} from './difference.js';
import {readable} from './data.js';
import {add} from './dom.js';
import {Heatmap} from './heatmap.js';

export class Comparison {
  /**
   * @param view the zoom that all heatmaps share
   * @param on what heatmaps call
   */
  constructor(parent, view, on) {
    this.matching = add(parent.parentElement, 'details', {id: 'matching', hidden: true});
    parent.before(this.matching);
    this.otherMap = new Heatmap(parent, view, on);
    this.differenceMap = new Heatmap(parent, view, on);
  }

  get maps() {
    return [this.otherMap, this.differenceMap];
  }

  hide() {
    this.table = null;
    for (const hidden of [this.matching, ...this.maps.map((map) => map.figure)]) hidden.hidden = true;
  }

  /**
   * Draw two runs and their difference.
   *
   * @param aligned both runs, of align.js
   * @param names of the runs
   * @param shape what the heatmap of the first run is drawn with: {axis, scale, dark, height, row}
   */
  show({tables: [table, other], own}, [name, otherName], layers, shape) {
    for (const shown of [this.matching, ...this.maps.map((map) => map.figure)]) shown.hidden = false;
    this.showMatching(matching(...own), name, otherName, shape.row);
    this.otherMap.show({...shape, table: other, layers, title: otherName, names: false});
    Object.assign(this, {table: difference(table, other), other, name: otherName});
    this.differenceMap.show({
      ...shape,
      table: this.table,
      layers,
      scale: differenceScale(this.table.ratio ? null : reach(this.table)),
      title: `${name} ${this.table.ratio ? '÷' : '−'} ${otherName}`,
      names: false,
    });
  }

  showMatching({both, first, second}, name, otherName, kind) {
    const summary = add(this.matching, 'summary');
    const all = both.length + first.length + second.length;
    const missing = [[first, name], [second, otherName]].filter(([layers]) => layers.length);
    const parts = [`${both.length} of ${all} ${kind}s are in both runs`];
    parts.push(...missing.map(([layers, run]) => `${layers.length} only in ${run.slice(0, 100)}`));
    summary.textContent = missing.length ? parts.join(' · ') : `all ${all} ${kind}s are in both runs`;
    const lists = missing.map(([layers, run]) => {
      const list = document.createElement('p');
      list.textContent = `only in ${run.slice(0, 100)}: ${layers.map((layer) => layer.slice(0, 200)).join(', ')}`;
      return list;
    });
    this.matching.replaceChildren(summary, ...lists);
  }

  /** What the second run has at a cell of the first, and how they differ, in parts. */
  words({layer, column}) {
    const {table, other, name} = this;
    if (!table) return [];
    const [step, epoch] = [other.steps[column], other.epochs[column]];
    if (step === null) return [`${name}: not measured`];
    const value = readable(other.row(other.rowOf.get(layer))[column]);
    const time = step === table.steps[column] ? '' : ` (${epoch === null ? '' : `epoch ${epoch}, `}step ${step})`;
    return [`${name}: ${value}${time}`, inWords(table, layer, column, readable)];
  }
}
