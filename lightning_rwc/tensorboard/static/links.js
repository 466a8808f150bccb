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

const ownOf = (hash) => hash.slice(1).split('&').filter((part) => part.startsWith(OWN)).join('&');

/** Our part of the address as we have last read or written it. */
let known = '';

export function readLink(defaults) {
  const {hash} = hostWindow().location;
  known = ownOf(hash);
  return decode(hash, defaults);
}

export function writeLink(state, defaults) {
  const host = hostWindow();
  const hash = encode(host.location.hash, state, defaults);
  try {
    host.history.replaceState(host.history.state, '', hash);
    known = ownOf(hash);
  } catch {
    // The browser has had too many addresses, and the next one will be right again.
  }
}

/** Call `changed` with what a link holds that somebody puts into the address. What we write ourselves is no event. */
export function followLink(defaults, changed) {
  const host = hostWindow();
  const follow = () => {
    const {hash} = host.location;
    // TensorBoard changes the address too, when it turns to another tab.
    const ours = hash.slice(1).split('&')[0] === PLUGIN && ownOf(hash);
    if (ours && ours !== known) changed(readLink(defaults));
  };
  host.addEventListener('hashchange', follow);
  window.addEventListener('pagehide', () => host.removeEventListener('hashchange', follow));
}

/** `act`, at most every `milliseconds`: at once if it rests, otherwise when that time is over. */
export function spaced(act, milliseconds, later = setTimeout) {
  let [resting, again] = [false, false];
  const call = () => {
    again = resting;
    if (resting) return;
    resting = true;
    later(() => {
      resting = false;
      if (again) call();
    }, milliseconds);
    act();
  };
  return call;
}
