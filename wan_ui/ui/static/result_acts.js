// The buttons beside a finished video: seed, last frame and code are done here, the others by the server.
const ACTS = {
  seed: (clip) => {
    window.wanUi.dom.fill('seed', clip.seed);
    window.wanUi.toast(`Seed ${clip.seed} is in the form.`);
  },
  last: async (clip) => {
    const address = `v1/requests/${clip.job}/videos/${clip.video}/last_frame.png`;
    if (await window.wanUi.firstFrame.fromAddress(address)) window.wanUi.toast('The last frame is the first frame now.');
  },
  code: (clip) => window.wanUi.code.open(JSON.parse(clip.request)),
};
const SAID = {
  continue: 'The settings are in the form, and the last frame is its first frame.',
  full: 'Added to the queue: the same request in full.',
  strengths: 'Comparing strengths…',
};
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  const { act } = button.dataset, clip = button.closest('.acts').dataset;
  if (ACTS[act]) {
    ACTS[act](clip);
    return;
  }
  window.wanUi.toast(SAID[act]);
  trigger('click', { act, job: clip.job, video: Number(clip.video) });
});
