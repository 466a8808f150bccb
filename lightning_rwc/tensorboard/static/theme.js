// SPDX-License-Identifier: Apache-2.0
// Light or dark, as TensorBoard is.

/** Call `changed` with whether the page is dark, now and whenever that changes. */
export function followTheme(changed) {
  let host = null;
  try {
    host = window.parent.document.body;
  } catch {
    // The frame belongs to a page of another origin. Only the system's preference is known.
  }
  const system = matchMedia('(prefers-color-scheme: dark)');
  const follow = () => {
    const inTensorBoard = host && host !== document.body;
    const dark = inTensorBoard ? host.classList.contains('dark-mode') : system.matches;
    document.documentElement.classList.toggle('dark', dark);
    changed(dark);
  };
  if (host) new MutationObserver(follow).observe(host, {attributes: true, attributeFilter: ['class']});
  system.addEventListener('change', follow);
  follow();
}
