// SPDX-License-Identifier: Apache-2.0
// What TensorBoard imports and calls to fill the tab.
import {App} from './app.js';

export async function render() {
  for (const sheet of ['./vendor/uPlot.min.css', './style.css']) {
    const link = document.createElement('link');
    link.rel = 'stylesheet';
    link.href = new URL(sheet, import.meta.url).href;
    document.head.append(link);
    await new Promise((done) => (link.onload = link.onerror = done));
  }
  document.documentElement.lang = 'en';
  await new App(document.body).start();
}
