// SPDX-License-Identifier: Apache-2.0
// What the tab says where a log has nothing for it.
import {add} from './dom.js';

export function emptyPage(parent) {
  const page = add(parent, 'section', {id: 'empty', hidden: true});
  const text = (tag, textContent) => add(page, tag, {textContent});
  text('h2', 'This log has no relative weight changes yet');
  text('p', 'Add the callback to your Trainer. Its measurements appear here after the first epoch:');
  const code = ['from lightning_rwc import RWCCallback', '', 'trainer = Trainer(callbacks=[RWCCallback()])'];
  text('pre', [...code, 'trainer.fit(model, data)'].join('\n'));
  text('p', 'This page looks again every few seconds.');
  return page;
}
