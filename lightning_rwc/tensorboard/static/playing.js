// SPDX-License-Identifier: Apache-2.0
// Walks through the measurements, one after the other.

const FRAME_MS = 120;
const CLOCK = {start: (act, milliseconds) => setInterval(act, milliseconds), stop: (timer) => clearInterval(timer)};

export class Player {
  /**
   * @param on.show called with a column
   * @param on.turned called with whether it plays
   */
  constructor(on, clock = CLOCK) {
    Object.assign(this, {on, clock, timer: null});
  }

  /** Stop, or play from `column`, from the start if that is the end. `count` tells how many columns there are. */
  toggle(column, count) {
    if (this.timer !== null) return this.stop();
    let next = column >= count() - 1 ? 0 : column;
    this.on.turned(true);
    this.timer = this.clock.start(() => {
      this.on.show(next++);
      if (next >= count()) this.stop();
    }, FRAME_MS);
  }

  stop() {
    this.clock.stop(this.timer);
    this.timer = null;
    this.on.turned(false);
  }
}
