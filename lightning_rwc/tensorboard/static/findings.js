// SPDX-License-Identifier: Apache-2.0
// What is wrong with the run, in words, above everything else. Each finding leads to its rows and its moment.
import {CODES} from './cells.js';
import {add, make} from './dom.js';

const NAMED = 3;

/** A kind, which is a name such as `no_gradient`, in words. */
export const inWords = (kind) => kind.replaceAll('_', ' ');

/** The first of `names`, and how many more there are. */
export function listing(names) {
  if (!names.length) return 'all layers';
  const more = names.length > NAMED + 1 ? names.length - NAMED : 0;
  return names.slice(0, more ? NAMED : names.length).join(', ') + (more ? ` and ${more} more` : '');
}

/** The column of the first measurement that is not before `step`, or -1. */
export const columnOf = ({step}, steps) => steps.findIndex((one) => one >= step);

/** The rows of `table` that a finding is about. In a table of blocks, these are the blocks of its layers. */
export function rowsOf({layers}, table) {
  const rows = layers.map((layer) => table.memberOf?.get(layer) ?? layer);
  return [...new Set(rows)].filter((row) => table.rowOf.has(row));
}

/** The findings of a run, and what its table shows that none of them says: that rows have no numbers any more. */
export function allFindings(table) {
  const {findings, layers, steps, epochs} = table;
  const told = findings?.some(({kind}) => kind === 'non_finite');
  // What nan means for other quantities is not known.
  if (told || (!findings && !table.scales)) return findings;
  const end = steps.length - 1;
  const lost = layers.filter((layer) => table.codeOf(layer, end) === CODES.not_finite);
  if (!lost.length) return findings;
  const since = Math.min(...lost.map((layer) => table.row(table.rowOf.get(layer)).findLastIndex(Number.isFinite) + 1));
  const message = 'These layers have weights that are nan or infinite, and learn nothing any more.';
  return [...(findings ?? []), {kind: 'non_finite', layers: lost, epoch: epochs[since], step: steps[since], message}];
}

/** What the heatmap marks: rows and columns. */
export function marksOf(findings, table) {
  const rows = new Set(findings.flatMap((finding) => rowsOf(finding, table)));
  const columns = [...new Set(findings.map((finding) => columnOf(finding, table.steps)))];
  return {rows, columns: columns.filter((column) => column >= 0)};
}

export class Findings {
  /** @param go called with a finding */
  constructor(parent, go) {
    this.go = go;
    this.element = add(parent, 'section', {id: 'findings', ariaLabel: 'findings'});
  }

  /** Show the findings of `table`, whose rows are layers; `chosen` tells whether one is what the page shows. */
  show(findings, table, chosen) {
    this.element.hidden = findings === null;
    if (findings === null) return;
    this.element.classList.toggle('quiet', !findings.length);
    if (!findings.length) {
      this.shown = '';
      return this.element.replaceChildren('Nothing was found.');
    }
    const names = findings.map(({layers}) => listing(layers.map((layer) => table.shortOf(layer).slice(0, 80))));
    const shown = JSON.stringify([findings, names]);
    // A button that is replaced loses the focus.
    if (shown !== this.shown) {
      this.buttons = findings.map((finding, index) => this.button(finding, names[index]));
      this.element.replaceChildren(...this.buttons);
    }
    this.shown = shown;
    findings.forEach((one, index) => this.buttons[index].setAttribute('aria-pressed', String(chosen(one))));
  }

  button(finding, names) {
    const {kind, epoch, step, message} = finding;
    const button = make('button', {type: 'button', title: message.slice(0, 2000)});
    add(button, 'strong', {textContent: inWords(kind).slice(0, 100)});
    const when = `${epoch === null ? '' : `epoch ${epoch}, `}step ${step}`;
    add(button, 'span', {className: 'where', textContent: `${names} · ${when}`});
    add(button, 'span', {className: 'message', textContent: message.slice(0, 2000)});
    button.addEventListener('click', () => this.go(finding));
    return button;
  }
}
