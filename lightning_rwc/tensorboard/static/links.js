// SPDX-License-Identifier: Apache-2.0
// A view as a part of the page's address, and back.

const PLUGIN = 'lightning_rwc';
const OWN = `p.${PLUGIN}.`;

/** What `hash` holds of the names in `defaults`. */
export function decode(hash, defaults) {
  const state = {};
  for (const part of hash.slice(1).split('&')) {
    const [key, value = ''] = part.split('=');
    const name = key.startsWith(OWN) ? key.slice(OWN.length) : '';
    try {
      if (Object.hasOwn(defaults, name)) state[name] = decodeURIComponent(value);
    } catch {
      // The link was cut in the middle of a character.
    }
  }
  return state;
}

/** `hash` with what differs between `state` and `defaults`. Parts of other tabs stay. */
export function encode(hash, state, defaults) {
  const entries = Object.entries(state).filter(([name, value]) => value !== defaults[name]);
  const own = entries.map(([name, value]) => `${OWN}${name}=${encodeURIComponent(value)}`);
  const [tab, ...rest] = hash.slice(1).split('&');
  return `#${[tab || PLUGIN, ...rest.filter((part) => !part.startsWith(OWN)), ...own].join('&')}`;
}

/** The window whose address people copy: TensorBoard's, unless that has another origin. */
function hostWindow() {
  try {
    void window.parent.location.hash;
    return window.parent;
  } catch {
    return window;
  }
}

export const readLink = (defaults) => decode(hostWindow().location.hash, defaults);

export function writeLink(state, defaults) {
  const host = hostWindow();
  host.history.replaceState(host.history.state, '', encode(host.location.hash, state, defaults));
}
