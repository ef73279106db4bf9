// Asks every second whether anything changed, and lets the page look only then: each look makes Gradio walk over all
// of the page's controls. Right after a press, and now and then, it looks all the same.
const EVERY = 1000, LIVELY = 3000, RARELY = 15000; // milliseconds
let last = null, looked = 0, asking = false;
const opened = performance.now();
const pulse = async () => {
  try {
    const answer = await window.fetch('v1/pulse', { cache: 'no-store' });
    return answer.ok ? (await answer.json()).pulse : null;
  } catch (error) {
    return null; // the look says it: Gradio has to notice, too
  }
};
const timer = window.setInterval(async () => {
  if (!element.isConnected) { window.clearInterval(timer); return; }
  if (asking) return;
  asking = true;
  const now = await pulse();
  asking = false;
  const time = performance.now();
  const touched = Math.max(opened, window.wanUi ? window.wanUi.touched : 0);
  if (now === null || now !== last || time - touched < LIVELY) {
    if (now !== last) window.wanUi.touched = time; // what one look shows may be what the next one is about
  } else if (time - looked < RARELY) {
    return;
  }
  last = now;
  looked = time;
  trigger('click', {});
}, EVERY);
