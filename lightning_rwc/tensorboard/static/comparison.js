// SPDX-License-Identifier: Apache-2.0
// A second run beside the selected one: its heatmap, their difference, and which layers they share.
import {matching} from './align.js';
import {looks} from './cells.js';
import {ColourBar} from './colourbar.js';
import {readable} from './data.js';
import {APPEARANCE, CODES, difference, inWords, reach} from './difference.js';
import {make} from './dom.js';
import {Heatmap} from './heatmap.js';
import {item, present, swatch} from './key.js';
import {diverging, ratios} from './scales.js';

export class Comparison {
  /**
   * @param view the zoom that all heatmaps share
   * @param on what heatmaps call
   */
  constructor(parent, view, on) {
    this.matching = make('details', {id: 'matching', hidden: true});
    parent.before(this.matching);
    this.otherMap = new Heatmap(parent, view, on);
    this.differenceMap = new Heatmap(parent, view, on);
    this.bar = new ColourBar(parent.parentElement.querySelector('header'));
    Object.assign(this.bar.figure, {id: '', className: 'colours'});
    this.key = make('ul', {className: 'key', hidden: true});
    parent.after(this.key);
  }

  get maps() {
    return [this.otherMap, this.differenceMap];
  }

  hide() {
    this.table = null;
    this.toggle(false);
  }

  /**
   * Draw two runs and their difference.
   *
   * @param aligned both runs, of align.js
   * @param names of the runs
   * @param shape what the heatmap of the first run is drawn with: {axis, scale, looks, height, kind, names}
   * @param appearance {patterns, difference, ground}: of appearance.json, and the colour of a cell that was not
   *   measured
   */
  show({tables: [table, other], own}, [name, otherName], layers, shape, {patterns, difference: {ticks}, ground}) {
    this.toggle(true);
    this.showMatching(matching(...own), name, otherName, shape.kind);
    this.otherMap.show({...shape, table: other, layers, title: otherName});
    const {perStep} = shape.scale;
    Object.assign(this, {table: difference(table, other, perStep), other, name: otherName, perStep});
    const title = `${name} ${this.table.ratio ? '÷' : '−'} ${otherName}`;
    const scale = this.table.ratio ? ratios(ticks, title) : diverging(reach(this.table), title);
    const special = looks({cells: APPEARANCE, patterns}, ground, CODES);
    this.differenceMap.show({...shape, table: this.table, layers, scale, looks: special, title});
    this.bar.show({...scale, title: perStep ? `${title}, per step` : title});
    const kinds = present(this.table.codesOf(layers), special);
    this.key.hidden = !kinds.length;
    this.key.replaceChildren(`${title}:`, ...kinds.map((look) => item(swatch(look), look.words)));
  }

  toggle(shown) {
    const figures = [this.bar, ...this.maps].map(({figure}) => figure);
    for (const one of [this.matching, this.key, ...figures]) one.hidden = !shown;
  }

  showMatching({both, first, second}, name, otherName, kind) {
    const all = both.length + first.length + second.length;
    const missing = [[first, name], [second, otherName]].filter(([layers]) => layers.length);
    const parts = [`${both.length} of ${all} ${kind}s are in both runs`];
    parts.push(...missing.map(([layers, run]) => `${layers.length} only in ${run.slice(0, 100)}`));
    const text = missing.length ? parts.join(' · ') : `all ${all} ${kind}s are in both runs`;
    const lists = missing.map(([layers, run]) => {
      const names = layers.map((layer) => layer.slice(0, 200)).join(', ');
      return make('p', {textContent: `only in ${run.slice(0, 100)}: ${names}`});
    });
    this.matching.replaceChildren(make('summary', {textContent: text}), ...lists);
  }

  /** What the second run has at a cell of the first, and how they differ, in parts; `wordsOf` a code. */
  words({layer, column}, wordsOf = () => '') {
    const {table, other, name, perStep} = this;
    if (!table) return [];
    const [step, epoch] = [other.steps[column], other.epochs[column]];
    if (step === null) return [`${name}: not measured`];
    const [value, words] = [readable(other.row(other.rowOf.get(layer))[column]), wordsOf(other.codeOf(layer, column))];
    const there = !words ? value : words.startsWith(value) ? words : `${value}, ${words}`;
    const time = step === table.steps[column] ? '' : ` (${epoch === null ? '' : `epoch ${epoch}, `}step ${step})`;
    const apart = inWords(table, layer, column, readable);
    const unequal = perStep && other.spans?.[column] !== table.spans?.[column] && table.codeOf(layer, column) === 0;
    return [`${name}: ${there}${time}`, unequal ? `${apart} per step` : apart];
  }
}
