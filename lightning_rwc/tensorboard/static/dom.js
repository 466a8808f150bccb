// SPDX-License-Identifier: Apache-2.0
// Small helpers for elements of the page. Text from logs is only ever set as text.

export const make = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

export const add = (parent, tag, properties = {}) => parent.appendChild(make(tag, properties));

/** Give a select its options, pairs of value and text, unless it has them already. */
export function fill(select, options, chosen) {
  const wanted = JSON.stringify(options);
  if (select.dataset.options !== wanted) {
    select.dataset.options = wanted;
    select.replaceChildren(
      ...options.map(([value, text]) => make('option', {value, textContent: text.slice(0, 200)})),
    );
  }
  select.value = chosen;
}
