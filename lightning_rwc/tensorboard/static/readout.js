// SPDX-License-Identifier: Apache-2.0
// One line that says what is under the pointer, or what is shown.
import {add} from './dom.js';
import {readable} from './data.js';

const shortened = (name) => (name.length > 160 ? `${name.slice(0, 80)}…${name.slice(-80)}` : name);

/** The shape of a layer in words, if it is known. Layers have any name, `constructor` too. */
export const shapeOf = ({shapes}, layer) => (Object.hasOwn(shapes, layer) ? shapes[layer] : undefined);

/**
 * What a cell of `table` says, as parts of a sentence.
 *
 * @param shape {kind, perStep, wordsOf}: what a row is, whether colours are per step, and what a code means
 */
export function cellText(table, {layer, column}, {kind, perStep = false, wordsOf = () => ''}) {
  const name = kind === 'unit' ? `unit ${shortened(layer)}` : shortened(layer);
  if (table.steps[column] === null) return [name, 'not measured'];
  const epoch = table.epochs[column];
  const shape = shapeOf(table, layer);
  const value = table.row(table.rowOf.get(layer))[column];
  const [number, words] = [readable(value), wordsOf(table.codeOf(layer, column))];
  const span = table.spans?.[column];
  return [
    name,
    ...(shape ? [shortened(shape)] : []),
    ...(epoch === null ? [] : [`epoch ${epoch}`]),
    `step ${table.steps[column]}`,
    ...(words.startsWith(number) ? [] : [number]),
    ...(words ? [words] : []),
    ...(perStep && span > 1 && value > 0 && Number.isFinite(value) ? [`${readable(value / span)} per step`] : []),
  ];
}

export const hasCell = (table, cell) => Boolean(cell && table.rowOf.has(cell.layer) && cell.column in table.steps);

export class Readout {
  constructor(parent) {
    this.element = add(parent, 'div', {id: 'readout'});
    this.element.setAttribute('aria-live', 'polite');
    this.problem = '';
  }

  /** Say what is wrong, until it is called with ''. */
  fail(problem) {
    this.problem = problem;
    this.element.classList.toggle('error', Boolean(problem));
  }

  /** Say `parts`, or `otherwise`, or what is wrong, where there are none. */
  show(parts, otherwise) {
    this.element.textContent = parts.length ? parts.join(' · ') : this.problem || otherwise;
  }
}
