// SPDX-License-Identifier: Apache-2.0
// Asks the server again and again, as long as somebody looks.

/** Call `act` now and every `milliseconds`; `failed` with its error, or with null where it has none. */
export async function poll(act, failed, {milliseconds = 5000, visible, every = setInterval} = {}) {
  visible ??= () => document.visibilityState === 'visible';
  const once = async () => {
    try {
      await act();
      failed(null);
    } catch (error) {
      failed(error);
    }
  };
  await once();
  every(() => visible() && once(), milliseconds);
}
