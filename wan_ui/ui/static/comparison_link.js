// A page that was opened by a comparison's link scrolls to the grid.
(() => {
  if (!new URLSearchParams(window.location.search).has('compare')) return;
  const restored = window.wanUi.filled;
  let isShown = false;
  window.wanUi.filled = async (form) => {
    await restored(form);
    if (form !== '.compare-form' || isShown) return;
    isShown = true;
    const board = document.querySelector('.compare-board');
    const show = () => board.scrollIntoView({ block: 'start' });
    show();
    // The tabs and banners above may still grow; a person who has begun to scroll or type is left alone.
    const grown = new ResizeObserver(show);
    grown.observe(document.body);
    const leave = () => grown.disconnect();
    for (const name of ['wheel', 'touchstart', 'keydown', 'pointerdown']) {
      window.addEventListener(name, leave, { once: true });
    }
    window.setTimeout(leave, 15000);
  };
})();
