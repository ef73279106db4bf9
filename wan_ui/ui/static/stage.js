// The stage while a job runs: the card's step, bar and time left, the live picture, what a screen reader says of it, and
// the notification at the end. All of it comes from the event stream, see stream.js.
(() => {
  const LIVE = ['in_queue', 'in_progress'];
  const SPOKEN = 10000; // milliseconds, at least, between two announcements of progress
  const STEPS = [25, 50, 75]; // percent that are announced
  const BELL = 'wan-ui:notify';
  const TICK = 1000;
  const byId = (id) => document.getElementById(id);
  const card = () => document.querySelector('#now .card');

  const setText = (element, text) => {
    if (!element || element.textContent === text) return;
    if (element.childNodes.length === 1 && element.firstChild.nodeType === Node.TEXT_NODE) element.firstChild.data = text;
    else element.textContent = text;
  };

  let jobs = [], progress = {}, heardAt = 0, spokenAt = 0, spokenStep = 0, timer = 0;
  const status = new Map(); // of each job of this browser when it was last heard of

  const leftOf = (one) => {
    if (one.seconds_left === null) return null;
    return Math.max(0, one.seconds_left - (performance.now() - heardAt) / 1000);
  };

  // What the API says in English: the cell of a comparison, or what is loaded.
  const noteText = (note) => {
    const cell = /^cell (\d+) of (\d+)$/.exec(note);
    return cell ? textOf('stage.cell', { number: cell[1], cells: cell[2] }) : translated(note);
  };

  // The card's own nodes are patched by Gradio when the page looks again: their texts are replaced, never the nodes.
  const showProgress = () => {
    const shown = card();
    const one = shown && progress[shown.dataset.job];
    if (!one || !one.phase || !shown.classList.contains('running')) return;
    const bar = shown.querySelector('progress');
    const share = shareDone(one);
    if (bar && share !== null) {
      bar.max = 1;
      bar.value = share;
    }
    setText(shown.querySelector('.chip'), textOf(`phase.${one.phase}`));
    const left = leftOf(one);
    const facts = [
      one.steps_total ? textOf('stage.step', { step: one.steps_done, steps: one.steps_total }) : '',
      one.phase === 'denoise' && one.seconds_per_step ? textOf('stage.per_step', { seconds: durationText(one.seconds_per_step) }) : '',
      noteText(one.note || ''),
    ].filter(Boolean);
    setText(shown.querySelector('.facts'), facts.join(' · '));
    setText(shown.querySelector('.left'), left === null ? '' : textOf(one.about ? 'stage.about_left' : 'stage.left', { seconds: durationText(left) }));
    const percent = share === null ? '' : `${Math.floor(100 * share)} %`;
    shown.dataset.title = [percent, left === null ? '' : clockText(left)].filter(Boolean).join(' · ') || textOf(`phase.${one.phase}`);
    announceProgress(one, left);
  };

  const say = (text) => setText(byId('announce'), text);
  const announceProgress = (one, left) => {
    const percent = 100 * (shareDone(one) || 0);
    const step = lastReached(percent, STEPS);
    if (step < spokenStep) spokenStep = 0;
    if (step === spokenStep || performance.now() - spokenAt < SPOKEN) return;
    spokenStep = step;
    spokenAt = performance.now();
    say(textOf(left === null ? 'stage.percent' : 'stage.percent_left', { step, seconds: left === null ? '' : durationText(left) }));
  };

  // The next picture replaces the one before when it is there, so that the box never flashes.
  const show = (image, job, picture) => {
    const source = `v1/requests/${job}/live.webp?video=${picture.video}&number=${picture.number}`;
    if (image.getAttribute('src') === source) return;
    const next = new Image();
    next.onload = () => image.setAttribute('src', source);
    next.src = source;
  };
  const showPicture = (pictures) => {
    // Other jobs that run are in the queue.
    for (const image of document.querySelectorAll('#side .jobs img[data-live]')) {
      const of = pictures[image.dataset.live];
      if (of && !document.hidden) show(image, image.dataset.live, of);
    }
    const box = byId('live');
    if (!box) return;
    const shown = card();
    const picture = shown && pictures[shown.dataset.job];
    const image = box.querySelector('img');
    box.hidden = !picture || !shown.classList.contains('running');
    if (box.hidden || document.hidden) return;
    show(image, shown.dataset.job, picture);
  };

  // The bell: a notification and a sound at the end of this browser's jobs, once a browser.
  const bell = () => window.localStorage.getItem(BELL) === 'on';
  const showBell = () => {
    const button = byId('bell');
    if (button) button.setAttribute('aria-pressed', String(bell()));
  };
  const sound = () => {
    const context = new AudioContext();
    const tone = context.createOscillator(), volume = context.createGain();
    tone.frequency.value = 660;
    volume.gain.setValueAtTime(0.15, context.currentTime);
    volume.gain.exponentialRampToValueAtTime(0.001, context.currentTime + 0.5);
    tone.connect(volume).connect(context.destination);
    tone.start();
    tone.stop(context.currentTime + 0.5);
    tone.onended = () => context.close();
  };
  const ended = (job) => {
    const state = textOf(`state.${job.status}`);
    say(`${state}: ${job.model_label}`);
    spokenStep = 0;
    if (!bell() || !window.wanUi.events.reads || job.status === 'canceled') return;
    sound();
    if (document.hasFocus() || !('Notification' in window) || Notification.permission !== 'granted') return;
    const notice = new Notification(`${state} – wan-ui`, { body: `${job.model_label}: ${job.prompt}` });
    notice.onclick = () => window.focus();
  };
  document.addEventListener('click', (event) => {
    if (!event.target.closest('#bell')) return;
    window.localStorage.setItem(BELL, bell() ? 'off' : 'on');
    showBell();
    if (bell() && 'Notification' in window && Notification.permission === 'default') Notification.requestPermission();
  });

  let pictures = {};
  const refresh = () => {
    showProgress();
    showPicture(pictures);
    const runs = jobs.some((job) => LIVE.includes(job.status));
    if (runs && !timer) timer = window.setInterval(showProgress, TICK);
    if (runs || !timer) return;
    window.clearInterval(timer);
    timer = 0;
  };
  window.wanUi.events.on('jobs', (heard) => {
    jobs = heard.jobs;
    for (const job of jobs.filter((each) => each.own)) {
      const before = status.get(job.request_id);
      status.set(job.request_id, job.status);
      if (LIVE.includes(before) && !LIVE.includes(job.status)) ended(job);
    }
    refresh();
  });
  window.wanUi.events.on('progress', (heard) => {
    progress = heard;
    heardAt = performance.now();
    refresh();
  });
  window.wanUi.events.on('pictures', (heard) => {
    pictures = heard;
    refresh();
  });
  document.addEventListener('visibilitychange', refresh);
  const now = byId('now');
  // When the page looks again, the card shows what it knew then; it is the same job's card, or another's.
  if (now) new MutationObserver(refresh).observe(now, { childList: true, subtree: true, attributeFilter: ['data-job'] });
  showBell();
})();
