// Ends a loop that Gradio 6.31 never ends. The indicator that it shows while the page opens counts the seconds, one
// animation frame after the other, and goes on when it has been removed: that keeps the processor of an idle page busy.
// Its module keeps the requestAnimationFrame that it finds when it is loaded, which is this one. What was begun with it
// before `wanUiOpeningEnded` is called runs once more; of that module it gets no further frame, of others it goes on.
(() => {
  const native = window.requestAnimationFrame, next = native.bind(window);
  let isOver = false, isBegunBefore = false;
  const frame = (callback) => {
    if (isOver) return isBegunBefore && new Error().stack.includes('/statustracker-') ? 0 : next(callback);
    return next((time) => {
      isBegunBefore = true;
      try {
        callback(time);
      } finally {
        isBegunBefore = false;
      }
    });
  };
  window.requestAnimationFrame = frame;
  window.wanUiOpeningEnded = () => {
    isOver = true;
    if (window.requestAnimationFrame === frame) window.requestAnimationFrame = native;
  };
})();
