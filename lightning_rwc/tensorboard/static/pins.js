// SPDX-License-Identifier: Apache-2.0
// The pinned rows, each a button that releases it.
import {add, make} from './dom.js';

const MOST = 12;

export class Pins {
  /**
   * @param release called with the name of a row
   * @param releaseAll called without anything
   */
  constructor(parent, release, releaseAll) {
    Object.assign(this, {release, releaseAll, shown: ''});
    this.element = add(parent, 'div', {id: 'pins'});
  }

  /** @param look gives the text and the colour of a row */
  show(names, look) {
    const looks = names.slice(0, MOST).map(look);
    const shown = JSON.stringify([names, looks]);
    // A button that is replaced loses the focus.
    if (shown === this.shown) return;
    this.shown = shown;
    const buttons = looks.map(([text, colour], index) => {
      const name = names[index];
      const button = make('button', {type: 'button', textContent: text.slice(0, 200), title: `unpin ${name}`});
      button.style.borderLeftColor = colour;
      button.addEventListener('click', () => this.release(name));
      return button;
    });
    if (names.length > 1) {
      const more = names.length > MOST ? `and ${names.length - MOST} more, ` : '';
      const all = make('button', {type: 'button', textContent: `${more}unpin all`, className: 'all'});
      all.addEventListener('click', this.releaseAll);
      buttons.push(all);
    }
    this.element.replaceChildren(...buttons);
  }
}
