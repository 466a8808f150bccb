// SPDX-License-Identifier: Apache-2.0
// Asks the server again and again, as long as somebody looks.

/** Call `act` now and every `milliseconds`, unless it is at work; `failed` with its error, or with null. */
export async function poll(act, failed, {milliseconds = 5000, visible, every = setInterval} = {}) {
  visible ??= () => document.visibilityState === 'visible';
  let busy = false;
  const once = async () => {
    busy = true;
    try {
      await act();
      failed(null);
    } catch (error) {
      failed(error);
    } finally {
      busy = false;
    }
  };
  await once();
  every(() => visible() && !busy && once(), milliseconds);
}
