// A page that was opened by a comparison's link shows that one, and scrolls to the grid.
(() => {
  if (!new URLSearchParams(window.location.search).has('compare')) return;
  window.localStorage.removeItem('wan-ui:comparison'); // else the comparison shown last could replace that of the address
  const restored = window.wanUi.filled;
  let isShown = false;
  window.wanUi.filled = async (form) => {
    await restored(form);
    if (form !== '.compare-form' || isShown) return;
    isShown = true;
    const board = document.querySelector('.compare-board');
    showWhileGrowing(() => board.scrollIntoView({ block: 'start' }), 15000); // tabs and banners above come late
  };
})();
