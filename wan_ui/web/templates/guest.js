{
  const MOST = 24; // videos of the grid that play at once: those on the screen
  const DRIFT = 0.08; // seconds that a video of the grid may be away from the large one
  const player = document.getElementById('player'), video = player.querySelector('video');
  const play = document.getElementById('play'), label = document.getElementById('label');
  const baseline = document.getElementById('baseline'), download = document.getElementById('download');
  const links = [...document.querySelectorAll('a[data-video]')];
  const calm = matchMedia('(prefers-reduced-motion: reduce)');
  const ICONS = {
    play: ['M5 3v10l8-5z', {{ text_of("player.play")|tojson }}], pause: ['M5 3.5v9M11 3.5v9', {{ text_of("script.player.pause")|tojson }}],
  };

  const showState = () => {
    const [shape, name] = ICONS[video.paused ? 'play' : 'pause'], path = play.querySelector('path');
    play.setAttribute('aria-label', name);
    path.setAttribute('d', shape);
    path.setAttribute('fill', video.paused ? 'currentColor' : 'none');
    for (const cell of playing()) video.paused ? cell.pause() : cell.play().catch(() => {});
  };
  const start = () => video.play().catch(() => {}); // a browser may forbid it: the button is there
  const playing = () => links.map((link) => link.querySelector('video')).filter((cell) => cell && cell.src);
  video.muted = true; // the attribute alone is not enough everywhere
  for (const name of ['play', 'pause']) video.addEventListener(name, showState);
  play.addEventListener('click', () => (video.paused ? start() : video.pause()));
  if (calm.matches) { video.autoplay = false; video.pause(); } else start();
  showState();

  const full = document.getElementById('full');
  full.hidden = !player.requestFullscreen;
  full.addEventListener('click', () => (document.fullscreenElement ? document.exitFullscreen() : player.requestFullscreen()));

  let chosen = links.find((link) => link.getAttribute('aria-current') === 'true');
  const show = (link) => {
    const time = video.currentTime, wasPlaying = !video.paused;
    video.poster = link.querySelector('img').src;
    video.src = download.href = link.href;
    video.setAttribute('aria-label', link.dataset.label);
    label.textContent = link.dataset.label;
    video.addEventListener('loadedmetadata', () => { video.currentTime = time % video.duration; }, { once: true });
    if (wasPlaying) start();
    for (const other of links) other.setAttribute('aria-current', String(other === link));
  };
  for (const link of links) {
    link.addEventListener('click', (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      chosen = link;
      if (baseline) baseline.setAttribute('aria-pressed', 'false');
      show(link);
    });
  }
  if (baseline) baseline.addEventListener('click', () => {
    const on = baseline.getAttribute('aria-pressed') !== 'true';
    baseline.setAttribute('aria-pressed', String(on));
    show(on ? links.find((link) => link.dataset.video === baseline.dataset.video) : chosen);
  });

  // The grid plays in step with the large video, as far as it is on the screen.
  const enter = (link) => {
    let cell = link.querySelector('video');
    if (!cell) {
      cell = document.createElement('video');
      Object.assign(cell, { muted: true, loop: true, playsInline: true, preload: 'auto', tabIndex: -1 });
      cell.setAttribute('aria-hidden', 'true');
      cell.poster = link.querySelector('img').src;
      link.append(cell);
    }
    if (cell.src || playing().length >= MOST) return;
    cell.src = link.href;
    cell.addEventListener('loadedmetadata', () => { cell.currentTime = video.currentTime % cell.duration; }, { once: true });
    if (!video.paused) cell.play().catch(() => {});
  };
  const leave = (link) => {
    const cell = link.querySelector('video');
    if (cell) cell.remove();
  };
  const watch = new IntersectionObserver((changes) => {
    for (const change of changes) (change.isIntersecting ? enter : leave)(change.target);
  });
  // First the large video, then the others: on a slow line it is what the guest came for.
  const begin = () => { if (!calm.matches) for (const link of links) watch.observe(link); };
  if (links.length) video.readyState >= 3 ? begin() : video.addEventListener('canplay', begin, { once: true });
  setInterval(() => {
    if (document.hidden || video.paused || video.seeking) return;
    for (const cell of playing()) {
      if (cell.readyState < 2 || cell.seeking) continue;
      const away = Math.abs(cell.currentTime - video.currentTime % cell.duration);
      if (Math.min(away, cell.duration - away) > DRIFT) cell.currentTime = video.currentTime % cell.duration;
    }
  }, 500);

  for (const copy of document.querySelectorAll('[data-copy]')) {
    copy.hidden = !navigator.clipboard;
    copy.addEventListener('click', async () => {
      await navigator.clipboard.writeText(location.href);
      document.getElementById('status').textContent = copy.querySelector('span').textContent = {{ text_of("script.player.copied")|tojson }};
    });
  }
}
