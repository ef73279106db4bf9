// Lets the page look again when a job has begun, ended or moved, and while a comparison runs that is in view. A hidden
// tab looks once it is shown.
const EVERY = 400, OFTEN = 2000; // milliseconds between two looks
const LOST = 10000; // milliseconds after which an answer is not waited for any more
let due = false, last = 0, timer = 0, waits = 0, isLate = false;
const look = () => {
  timer = 0;
  if (!element.isConnected || !due || document.hidden) return;
  due = false;
  last = performance.now();
  waits = window.setTimeout(lost, LOST);
  trigger('click', {});
};
const want = (every) => {
  due = true;
  // Gradio drops a click while the one before is not answered.
  if (!timer && !waits) timer = window.setTimeout(look, Math.max(0, last + every - performance.now()));
};
const looked = () => {
  window.clearTimeout(waits);
  waits = 0;
  if (isLate) due = true; // what was wanted meanwhile has been dropped
  isLate = false;
  if (due) want(EVERY);
};
const lost = () => {
  waits = 0;
  isLate = true;
  want(EVERY);
};
document.addEventListener('wan-ui-looked', looked);
// The answer to a press may overtake that of a look, and shows what was before it.
document.addEventListener('wan-ui-answered', () => want(EVERY));
document.addEventListener('visibilitychange', () => {
  if (!document.hidden && due) want(0);
});
const shown = (id) => {
  const found = document.getElementById(id);
  return found !== null && found.getClientRects().length > 0;
};
window.wanUi.events.on('jobs', () => want(EVERY));
window.wanUi.events.on('progress', (jobs) => {
  if (Object.keys(jobs).length && shown('player')) want(OFTEN);
});
