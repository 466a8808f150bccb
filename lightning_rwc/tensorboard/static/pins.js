// SPDX-License-Identifier: Apache-2.0
// The pinned rows, each a button that releases it.
import {add, make} from './dom.js';

export class Pins {
  /** @param release called with the name of a row */
  constructor(parent, release) {
    this.element = add(parent, 'div', {id: 'pins'});
    this.release = release;
  }

  /** @param colour gives the colour of a row */
  show(names, colour) {
    this.element.replaceChildren(
      ...names.map((name) => {
        const button = make('button', {type: 'button', textContent: name.slice(0, 200), title: 'unpin'});
        button.style.borderLeftColor = colour(name);
        button.addEventListener('click', () => this.release(name));
        return button;
      }),
    );
  }
}
