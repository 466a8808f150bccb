// SPDX-License-Identifier: Apache-2.0
// Which part of the rows and columns is visible. All maps and the profile share it.

export class View {
  constructor() {
    this.reset();
  }

  reset() {
    this.restore({x0: 0, x1: 1, y0: 0, y1: 1});
  }

  save() {
    const {x0, x1, y0, y1} = this;
    return {x0, x1, y0, y1};
  }

  restore(saved) {
    Object.assign(this, saved);
  }

  /** The visible part of so many columns and rows, in cells. */
  span(columns, rows) {
    const {x0, x1, y0, y1} = this;
    return {left: x0 * columns, right: x1 * columns, top: y0 * rows, bottom: y1 * rows};
  }

  /** Make the visible part `factor` times as large, around a place in it. */
  zoom(factor, x = 0.5, y = 0.5, {columns = true, rows = true} = {}) {
    const along = (low, high, share) => {
      const size = Math.min((high - low) * factor, 1);
      const start = Math.min(Math.max(low + share * (high - low - size), 0), 1 - size);
      return [start, start + size];
    };
    if (columns) [this.x0, this.x1] = along(this.x0, this.x1, x);
    if (rows) [this.y0, this.y1] = along(this.y0, this.y1, y);
  }

  /** Move by shares of the visible part, from where it was at `from`. */
  move(dx, dy, from = this.save()) {
    const shift = (low, high, by) => Math.min(Math.max(by * (high - low), -low), 1 - high);
    const [x, y] = [shift(from.x0, from.x1, dx), shift(from.y0, from.y1, dy)];
    this.restore({x0: from.x0 + x, x1: from.x1 + x, y0: from.y0 + y, y1: from.y1 + y});
  }

  /** Move so that the rows from share `low` to share `high` of all rows are visible; zoom out if they must be. */
  revealRows(low, high) {
    const size = Math.max(this.y1 - this.y0, Math.min(high - low, 1));
    const start = low < this.y0 ? low : high > this.y1 ? high - size : this.y0;
    this.y0 = Math.min(Math.max(start, 0), 1 - size);
    this.y1 = this.y0 + size;
  }

  revealColumns(low, high) {
    const {y0, y1} = this;
    const turned = Object.assign(new View(), {y0: this.x0, y1: this.x1});
    turned.revealRows(low, high);
    this.restore({x0: turned.y0, x1: turned.y1, y0, y1});
  }

  get whole() {
    return this.x0 === 0 && this.x1 === 1 && this.y0 === 0 && this.y1 === 1;
  }
}
