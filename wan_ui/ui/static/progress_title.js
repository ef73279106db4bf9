// The tab's title and icon follow the status card: "43 % · 27 s left – wan-ui" and a ring; when a job that ran in this
// page has ended, "✓ Done – wan-ui" until somebody looks.
(() => {
  const NAME = 'wan-ui';
  const SIZE = 64, CENTRE = SIZE / 2, WIDTH = 12; // pixels of the icon, the middle and the ring's width
  const COLOURS = { running: '#a8155f', done: '#17693b', failed: '#b3261e' };
  const icon = document.querySelector('link[rel~="icon"]') || document.createElement('link');
  icon.rel = 'icon';
  const usual = icon.getAttribute('href');
  let ran = false; // whether this page has seen the job run
  let drawn = '';

  // A ring around `share` of the circle; null for the page's own icon.
  const draw = (share, colour) => {
    const wanted = share === null ? '' : `${share.toFixed(2)} ${colour}`;
    if (wanted === drawn) return;
    drawn = wanted;
    if (share === null) {
      if (usual) icon.setAttribute('href', usual);
      else icon.remove();
      return;
    }
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = SIZE;
    const context = canvas.getContext('2d');
    context.lineWidth = WIDTH;
    const arc = (from, to, style) => {
      context.beginPath();
      context.strokeStyle = style;
      context.arc(CENTRE, CENTRE, CENTRE - WIDTH / 2, from, to);
      context.stroke();
    };
    const top = -Math.PI / 2;
    arc(0, 2 * Math.PI, '#9ca3af');
    if (share > 0) arc(top, top + 2 * Math.PI * share, colour);
    icon.setAttribute('href', canvas.toDataURL('image/png'));
    if (!icon.isConnected) document.head.append(icon);
  };
  const calm = () => {
    document.title = NAME;
    draw(null, '');
  };
  const update = () => {
    const card = document.querySelector('#now .card');
    if (!card) return;
    const title = card.dataset.title || '';
    const state = [...card.classList].find((name) => name !== 'card');
    const live = state === 'running' || state === 'waiting';
    const ended = state === 'done' || state === 'failed';
    if (!title || (ended && !ran)) {
      calm();
      return;
    }
    if (live) ran = true;
    const bar = card.querySelector('progress');
    document.title = `${title} – ${NAME}`;
    if (state === 'waiting') draw(0, COLOURS.running);
    else if (state === 'running') draw(bar && bar.hasAttribute('value') ? bar.position : 0, COLOURS.running);
    else draw(1, COLOURS[state]);
  };
  const looked = () => {
    const card = document.querySelector('#now .card');
    if (!ran || !card || card.matches('.running, .waiting')) return;
    ran = false;
    calm();
  };
  for (const name of ['pointerdown', 'keydown', 'focus']) window.addEventListener(name, looked, true);
  // Gradio patches the card in place: attributes and texts change, and not only children.
  const now = document.getElementById('now');
  if (now) new MutationObserver(update).observe(now, {
    childList: true, subtree: true, attributes: true, characterData: true,
  });
  update();
})();
