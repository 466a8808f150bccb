// SPDX-License-Identifier: Apache-2.0
// Lines that say why the page does not show what was asked for, and what to do.
import {add, make} from './dom.js';

export class Notes {
  constructor(parent) {
    this.element = add(parent, 'div', {id: 'notes'});
    this.element.setAttribute('role', 'status');
    this.shown = '';
  }

  /** @param notes [{text, label, act}]; a note with a label has a button */
  show(notes) {
    const shown = JSON.stringify(notes);
    if (shown === this.shown) return;
    this.shown = shown;
    this.element.replaceChildren(
      ...notes.map(({text, label, act}) => {
        const line = make('p', {textContent: text});
        if (label) add(line, 'button', {type: 'button', textContent: label}).addEventListener('click', act);
        return line;
      }),
    );
  }
}
