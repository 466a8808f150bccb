// SPDX-License-Identifier: Apache-2.0
// What is shown as a file: numbers as CSV, pictures as PNG.
import {make} from './dom.js';

export function csv(table, layers) {
  // A spreadsheet would take a name that begins so for a formula.
  const cell = (text) => `"${text.replace(/^[=+@-]/, "'$&").replaceAll('"', '""')}"`;
  const head = ['epoch', 'step', ...layers].map(cell).join(',');
  const rows = table.steps.map((step, column) => {
    const values = layers.map((layer) => table.row(table.rowOf.get(layer))[column]);
    return [table.epochs[column] ?? '', step, ...values].join(',');
  });
  return [head, ...rows].join('\r\n') + '\r\n';
}

export const saveCsv = (table, layers, name) =>
  save(new Blob([csv(table, layers)], {type: 'text/csv'}), `${name}.csv`);

/** Save what `frame` shows: captions, the words of the key and canvases, where they are on the page. */
export function savePng(frame, name) {
  const {left, top, width, height} = frame.getBoundingClientRect();
  const ratio = window.devicePixelRatio || 1;
  const sheet = make('canvas', {width: width * ratio, height: height * ratio});
  const context = sheet.getContext('2d');
  const style = getComputedStyle(document.documentElement);
  context.scale(ratio, ratio);
  context.fillStyle = style.getPropertyValue('--ground');
  context.fillRect(0, 0, width, height);
  context.translate(-left, -top);
  context.fillStyle = style.getPropertyValue('--text');
  context.font = '12px system-ui';
  context.textBaseline = 'middle';
  for (const element of frame.querySelectorAll('figcaption, .words, canvas')) {
    const box = element.getBoundingClientRect();
    if (!box.width || !box.height) continue;
    if (element.tagName === 'CANVAS') context.drawImage(element, box.left, box.top, box.width, box.height);
    else context.fillText(element.textContent, box.left, box.top + box.height / 2);
  }
  sheet.toBlob((blob) => save(blob, `${name}.png`));
}

function save(blob, name) {
  const link = make('a', {href: URL.createObjectURL(blob), download: name.replaceAll(/[^\w.-]/g, '_')});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
