// The buttons beside a finished video: seed, last frame and code are done here, the others by the server.
const ACTS = {
  seed: (clip) => {
    window.wanUi.dom.fill('seed', clip.seed);
    window.wanUi.toast(textOf('result.seed', { seed: clip.seed }));
  },
  last: async (clip) => {
    const address = `v1/requests/${clip.job}/videos/${clip.video}/last_frame.png`;
    if (await window.wanUi.firstFrame.fromAddress(address)) window.wanUi.toast(textOf('result.last'));
  },
  code: (clip) => window.wanUi.code.open(JSON.parse(clip.request)),
};
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  const { act } = button.dataset, clip = button.closest('.acts').dataset;
  if (ACTS[act]) {
    ACTS[act](clip);
    return;
  }
  window.wanUi.toast(textOf(`result.${act}`));
  trigger('click', { act, job: clip.job, video: Number(clip.video) });
});
