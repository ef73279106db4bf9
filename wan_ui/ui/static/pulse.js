// Asks every second whether anything changed, and lets the page look only then, and now and then: each look makes
// Gradio walk over all of the page's controls.
const EVERY = 1000, RARELY = 15000; // milliseconds
let last = null, looked = performance.now(), asking = false;
const pulse = async () => {
  try {
    const answer = await window.fetch('v1/pulse', { cache: 'no-store' });
    return answer.ok ? (await answer.json()).pulse : null;
  } catch (error) {
    return null; // the look has to say so: Gradio, too, is to notice
  }
};
const timer = window.setInterval(async () => {
  if (!element.isConnected) { window.clearInterval(timer); return; }
  if (asking) return;
  asking = true;
  const now = await pulse();
  asking = false;
  if (now !== null && now === last && performance.now() - looked < RARELY) return;
  last = now;
  looked = performance.now();
  trigger('click', {});
}, EVERY);
