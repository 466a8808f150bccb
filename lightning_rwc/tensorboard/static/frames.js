// SPDX-License-Identifier: Apache-2.0
// Work that is done once, at the next frame, however often it is asked for.

export class Frames {
  /**
   * @param work name to function. `all` does everything, so nothing else is done in its frame.
   * @param request calls a function at the next frame
   */
  constructor(work, request = (act) => requestAnimationFrame(act)) {
    this.work = work;
    this.request = request;
    this.asked = new Set();
  }

  ask(name) {
    if (!this.asked.size) this.request(() => this.act());
    this.asked.add(name);
  }

  act() {
    const names = this.asked.has('all') ? ['all'] : [...this.asked];
    this.asked.clear();
    for (const name of names) this.work[name]();
  }
}
