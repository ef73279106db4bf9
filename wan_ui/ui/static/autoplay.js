// The result's videos play by themselves, muted and looped; with reduced motion they stand on their middle frame, as
// the first one is the same for every LoRA in image-to-video.
(() => {
  // Media events do not bubble, so this listens on the way down; it also hears a video that got another source.
  document.addEventListener('loadedmetadata', (event) => {
    const video = event.target;
    if (!video.closest('#result')) return;
    video.muted = true;
    if (reducedMotion.matches) video.currentTime = video.duration / 2;
    else video.play().catch(() => {}); // a browser may forbid it: its controls are there
  }, true);
})();
