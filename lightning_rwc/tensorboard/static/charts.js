// SPDX-License-Identifier: Apache-2.0
// Line charts, drawn by uPlot. A canvas above each chart holds what moves with the pointer.
import uPlot from './vendor/uPlot.esm.js';
import {readable} from './data.js';
import {make} from './dom.js';

// There is no half epoch, step or layer.
const WHOLE = [0, 1, 2, 3, 4, 5, 6, 7].flatMap((power) => [1, 2, 5].map((step) => step * 10 ** power));

export class LineChart {
  /**
   * @param on.hover called with {layer, column} or null; the series nearest to the pointer
   * @param on.pin called with a layer
   */
  constructor(parent, title, on = {}) {
    this.figure = parent.appendChild(document.createElement('figure'));
    this.caption = this.figure.appendChild(document.createElement('figcaption'));
    this.caption.textContent = title;
    this.holder = this.figure.appendChild(document.createElement('div'));
    this.on = on;
    this.marks = {};
  }

  /**
   * Draw anew. `series` is a list of {name, values, colour, width, dash, points}, all over `x`.
   *
   * @param shape {height, xName, yName, logarithmic, range, describe, nothing}: `nothing` is said if there is no number
   */
  show(x, series, {height, xName, yName, logarithmic, range, describe, nothing = 'There is no number to draw.'}) {
    const style = getComputedStyle(document.documentElement);
    const [text, line] = ['--text', '--line'].map((name) => style.getPropertyValue(name));
    const zoomed = this.zoomed(x, xName);
    Object.assign(this, {x, series, logarithmic, xName});
    const axis = {stroke: text, grid: {stroke: line, width: 0.5}, ticks: {stroke: line}, font: '11px system-ui'};
    this.holder.setAttribute('role', 'img');
    this.holder.setAttribute('aria-label', describe);
    // Where a curve is `undefined`, another one has a point: there is no gap.
    const shown = (value) => Number.isFinite(value) && !(logarithmic && value <= 0);
    const visible = (value) => (value === undefined || shown(value) ? value : null);
    const data = [x, ...series.map(({values}) => Array.from(values, visible))];
    const values = (_, splits) => splits.map((value) => (value === null ? '' : readable(value)));
    this.plot?.destroy();
    this.plot = this.above = null;
    if (!data.slice(1).some((values) => values.some((value) => value != null))) {
      // An axis would be invented.
      this.holder.replaceChildren(make('p', {className: 'nothing', textContent: nothing}));
      return;
    }
    this.holder.replaceChildren();
    this.plot = new uPlot(
      {
        width: Math.max(this.holder.clientWidth, 200),
        height,
        legend: {show: false},
        cursor: {points: {show: false}, drag: {x: true, y: false}},
        scales: {x: {time: false}, y: logarithmic ? {distr: 3} : {range}},
        axes: [
          {...axis, incrs: WHOLE, label: xName, labelSize: 16, labelFont: '11px system-ui', size: 26},
          {...axis, size: 58, label: yName, labelSize: 16, labelFont: '11px system-ui', values},
        ],
        series: [
          {},
          ...series.map(({colour, width, dash, points}) => ({
            stroke: colour,
            width: width ?? 1,
            dash,
            spanGaps: false,
            points: {show: points ?? x.length * series.length <= 2000, size: 4, fill: colour},
          })),
        ],
        hooks: {setCursor: [() => this.pointed()], draw: [() => queueMicrotask(() => this.overlay())]},
      },
      data,
      this.holder,
    );
    if (zoomed) this.plot.setScale('x', zoomed);
    this.above = this.plot.over.appendChild(document.createElement('canvas'));
    this.above.className = 'overlay';
    this.plot.over.addEventListener('click', () => this.near && this.on.pin?.(this.near.layer));
    this.plot.over.addEventListener('pointerleave', () => this.on.hover?.(null));
    this.overlay();
  }

  /** The part of the x axis to which the user has zoomed, or null if that is all, or not a part of the new one. */
  zoomed(x, xName) {
    if (!this.plot || xName !== this.xName) return null;
    const {min, max} = this.plot.scales.x;
    const part = min > this.x[0] || max < this.x[this.x.length - 1];
    return part && min < x[x.length - 1] && max > x[0] ? {min, max} : null;
  }

  /** Write above the chart what it shows, and the name behind each colour. */
  title(text, legend = []) {
    const names = legend.map(({name, colour}) => {
      const mark = Object.assign(document.createElement('span'), {textContent: ' ■ '});
      mark.style.color = colour;
      return [mark, name.slice(0, 100)];
    });
    this.caption.replaceChildren(text, ...names.flat());
  }

  /** Highlight series by name (`hover`, `pins`) and a position on the x axis (`at`). */
  mark(marks) {
    this.marks = marks;
    this.overlay();
  }

  pointed() {
    const {left, top, idx} = this.plot?.cursor ?? {};
    if (!this.on.hover || !(left >= 0) || idx === null || idx === undefined) return;
    let best = 30;
    this.near = null;
    this.series.forEach(({name}, index) => {
      const value = this.plot.data[index + 1][idx];
      if (value == null) return;
      const away = Math.abs(this.plot.valToPos(value, 'y') - top);
      if (away < best) [best, this.near] = [away, {layer: name, column: idx}];
    });
    this.on.hover(this.near);
  }

  overlay() {
    const {plot, above, marks} = this;
    if (!plot || !above) return;
    const ratio = window.devicePixelRatio || 1;
    const {clientWidth: width, clientHeight: height} = plot.over;
    Object.assign(above, {width: width * ratio, height: height * ratio});
    Object.assign(above.style, {width: `${width}px`, height: `${height}px`});
    const context = above.getContext('2d');
    context.scale(ratio, ratio);
    const text = getComputedStyle(document.documentElement).getPropertyValue('--text');
    if (marks.at !== undefined && marks.at !== null) {
      context.strokeStyle = text;
      context.setLineDash([3, 3]);
      const x = plot.valToPos(marks.at, 'x');
      context.beginPath();
      context.moveTo(x, 0);
      context.lineTo(x, height);
      context.stroke();
      context.setLineDash([]);
    }
    for (const name of [...(marks.pins ?? []), marks.hover]) {
      this.series.forEach((series, index) => {
        if (series.name === name) this.trace(context, index, name === marks.hover ? text : null);
      });
    }
  }

  trace(context, index, halo) {
    const {plot} = this;
    const values = plot.data[index + 1];
    const line = [this.series[index].colour, 3];
    for (const [colour, width] of halo ? [[halo, 5], line] : [line]) {
      context.strokeStyle = context.fillStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      let pen = false;
      values.forEach((value, i) => {
        if (value === undefined) return;
        if (value === null) return (pen = false);
        const [x, y] = [plot.valToPos(plot.data[0][i], 'x'), plot.valToPos(value, 'y')];
        pen ? context.lineTo(x, y) : context.moveTo(x, y);
        if (!pen && values[i + 1] == null) context.fillRect(x - 2, y - 2, 4, 4);
        pen = true;
      });
      context.stroke();
    }
  }
}
