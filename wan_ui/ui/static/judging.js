// Judging a comparison: marks on its cells, blind votes on pairs, and the verdict, all kept by the server (see
// /v1/requests/{id}/judging). `player` gives the cells that are shown, the data of those of all pages, and loads a
// cell's settings into the form.
window.wanUi.judging = (player) => {
  const { root, cells } = player;
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const marks = new Map(); // 'favourite' or 'rejected' by the clip's number
  const since = new Map(); // the same, or null: what was set since the kept marks were asked for
  let shown = '', places = [], votes = 0;

  const pathOf = (path) => `requests/${shown}/${path}`;
  const say = (error) => {
    part('verdict').textContent = reasonOf(error);
  };

  // Marks

  const MARKS = ['favourite', 'rejected'];
  const SHAPES = {
    favourite: 'M8 2l1.8 3.8 4.2.5-3.1 2.9.8 4.1L8 11.3l-3.7 2 .8-4.1L2 6.3l4.2-.5z',
    rejected: 'M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 1 0 0-11M4.2 4.2l7.6 7.6',
  };
  const buttons = (cell) => MARKS.map((mark) => {
    const button = makeButton({ class: mark, 'aria-label': textOf(`judging.${mark}_which`, { name: cell.data.label }), title: textOf(`judging.${mark}_key`) }, () => set(cell, mark));
    button.innerHTML = `<svg viewBox="0 0 16 16" aria-hidden="true"><path d="${SHAPES[mark]}"/></svg>`;
    return button;
  });
  const adorn = (cell) => {
    if (!player.judged() || !cell.video) return;
    cell.node.querySelector('figure').append(make('div', { class: 'marks' }, ...buttons(cell)));
    show(cell);
  };
  const show = (cell) => {
    const mark = marks.get(cell.data.video) || '';
    cell.node.dataset.mark = mark;
    for (const word of MARKS) {
      const button = cell.node.querySelector(`.marks .${word}`);
      if (button) button.setAttribute('aria-pressed', String(word === mark));
    }
  };
  const put = (video, mark) => { if (mark) marks.set(video, mark); else marks.delete(video); };
  const set = async (cell, mark) => {
    const video = cell.data.video, before = marks.get(video), wanted = before === mark ? null : mark;
    const keep = (value) => { since.set(video, value || null); put(video, value); showAll(); };
    keep(wanted); // at once; taken back if the server refuses
    try { await sendJson('PUT', pathOf(`marks/${video}`), { mark: wanted }); } catch (error) { keep(before); say(error); }
  };
  const count = (mark) => [...marks.values()].filter((value) => value === mark).length;
  const showAll = () => {
    for (const cell of cells.values()) show(cell);
    const favourites = count('favourite'), rejected = count('rejected');
    part('only').disabled = !favourites;
    if (!favourites) part('only').setAttribute('aria-pressed', 'false');
    part('only').textContent = textOf(favourites ? 'judging.only_count' : 'judging.only', { number: favourites });
    part('hide').disabled = !rejected;
    part('hide').textContent = textOf(rejected ? 'judging.hide_count' : 'judging.hide', { number: rejected });
    part('blind').disabled = player.all().filter((data) => data.state === 'done').length < 2;
    verdict();
    filter();
  };
  const filter = () => {
    const only = part('only').getAttribute('aria-pressed') === 'true', hide = part('hide').getAttribute('aria-pressed') === 'true';
    const isHidden = (cell) => (only && marks.get(cell.data.video) !== 'favourite') || (hide && marks.get(cell.data.video) === 'rejected');
    const columns = new Set(), rows = new Set();
    for (const cell of cells.values()) {
      cell.node.dataset.hidden = isHidden(cell) ? 'yes' : 'no';
      if (isHidden(cell)) continue;
      columns.add(String(cell.data.column));
      rows.add(String(cell.data.row));
    }
    // A column or row of which nothing is left makes room for the others.
    for (const node of root.querySelectorAll('.board [data-column]')) node.hidden = (only || hide) && !columns.has(node.dataset.column);
    for (const node of root.querySelectorAll('.board tr[data-row]')) node.hidden = (only || hide) && !rows.has(node.dataset.row);
  };
  for (const name of ['only', 'hide']) {
    part(name).addEventListener('click', () => {
      const button = part(name);
      button.setAttribute('aria-pressed', String(button.getAttribute('aria-pressed') !== 'true'));
      filter();
    });
  }

  // The verdict

  // Whether the votes put nobody first: the two best places have the same share as it is shown, in whole percent.
  const isEven = () => places.length > 1 && Math.round(100 * places[0].share) === Math.round(100 * places[1].share);
  const winner = () => {
    const chosen = votes && !isEven() ? places[0] : null;
    if (chosen) return player.all().find((data) => data.video === chosen.video);
    const favourites = player.all().filter((data) => marks.get(data.video) === 'favourite');
    return favourites.length === 1 ? favourites[0] : null;
  };
  const headline = () => (isEven() ? textOf('judging.tie') : translated(places[0].text));
  const verdict = () => {
    const best = winner();
    const text = votes && places[0] ? textOf('judging.verdict', { text: headline(), count: votes }) : best ? textOf('judging.favourite', { name: best.label }) : '';
    part('verdict').textContent = text;
    part('winner').hidden = !best;
    if (best) part('winner').setAttribute('aria-label', textOf('player.use_which', { name: best.label }));
  };
  part('winner').addEventListener('click', () => { const best = winner(); if (best) player.use(best); });

  const load = async () => {
    if (!player.judged()) return;
    const id = shown;
    since.clear();
    try {
      const { mine } = await callApi(pathOf('judging'));
      if (id !== shown) return;
      marks.clear();
      for (const item of mine.marks) marks.set(item.video, item.favourite ? 'favourite' : 'rejected');
      since.forEach((mark, video) => put(video, mark));
      places = mine.cells;
      votes = mine.votes;
      showAll();
    } catch (error) { say(error); }
  };

  // Blind votes

  const APART = 0.1; // seconds that the second video may be away from the first
  const MOST_SEGMENTS = 12; // of the bar of pairs: more pairs share two, for what is done and what is left
  const duel = () => {
    let ballot = null, before = null, isBusy = false, plays = !reducedMotion.matches;
    const clip = () => {
      const video = make('video', { muted: '', loop: '', playsinline: '', 'aria-hidden': 'true' });
      video.muted = true;
      return video;
    };
    const sides = ['a', 'b'].map((side) => {
      const video = clip();
      const name = side.toUpperCase(), better = textOf('judging.better', { side: name });
      const button = makeButton({ class: 'option', 'aria-label': better }, () => vote(side), make('b', {}, name), video, make('span', {}, better));
      return { side, video, button };
    });
    const progress = make('span', { role: 'status' }), bar = make('span', { class: 'pairs', 'aria-hidden': 'true' }), result = make('ol', { class: 'result' });
    const title = make('h2', {}, textOf('judging.which')), hint = make('span', { class: 'hint' }, textOf('judging.hint')), best = clip();
    const tie = makeButton({}, () => vote('tie'), textOf('judging.tie')), undo = makeButton({}, () => back(), textOf('judging.undo'));
    const motion = makeButton({}, () => { plays = !plays; run(); });
    const choose = makeButton({ class: 'main' }, () => { const data = winner(); dialog.close(); if (data) player.use(data); }, textOf('player.use'));
    const table = make('div', { class: 'sides' }, ...sides.map((item) => item.button));
    const outcome = make('div', { class: 'outcome' }, best, make('div', { class: 'places' }, result, choose));
    const dialog = make('dialog', { class: 'duel', 'aria-label': textOf('judging.blind'), tabindex: '-1' },
      make('div', { class: 'line' }, makeButton({}, () => dialog.close(), textOf('judging.leave')), title, make('span', { class: 'turn' }, progress, bar)),
      table, outcome,
      make('div', { class: 'line' }, tie, undo, motion, hint));
    // What is shown plays in step from its first frame, or stands on its middle one.
    const inSight = () => (table.hidden ? [best] : sides.map(({ video }) => video)).filter((video) => video.readyState >= 1);
    const run = () => {
      motion.textContent = textOf(plays ? 'player.pause' : 'player.play');
      for (const video of inSight()) {
        if (plays) video.play().catch(() => {});
        else video.pause();
      }
    };
    const [one, other] = sides.map(({ video }) => video);
    for (const video of [one, other, best]) {
      video.addEventListener('loadeddata', () => {
        for (const each of inSight()) each.currentTime = plays ? 0 : each.duration / 2;
        run();
      });
    }
    one.addEventListener('timeupdate', () => {
      const isAlike = Math.abs(one.duration - other.duration) < APART;
      if (plays && isAlike && !other.seeking && Math.abs(one.currentTime - other.currentTime) > APART) other.currentTime = one.currentTime;
    });
    const drawBar = (voted, pairs) => {
      const isShared = pairs > MOST_SEGMENTS;
      const segments = Array.from({ length: isShared ? 2 : pairs }, (_, index) => make('i', (isShared ? !index : index < voted) ? { class: 'done' } : {}));
      bar.classList.toggle('shared', isShared);
      if (isShared) [voted, pairs - voted].forEach((share, index) => { segments[index].style.flexGrow = share; });
      bar.replaceChildren(...segments.filter((segment) => segment.style.flexGrow !== '0'));
    };
    const nextPair = () => callApi(pathOf('pairs'), { method: 'POST' });
    const turn = (next) => {
      ballot = next;
      undo.disabled = !before;
      const isOver = !ballot.id;
      table.hidden = tie.hidden = hint.hidden = isOver;
      outcome.hidden = !isOver;
      motion.hidden = false;
      title.textContent = textOf('judging.which');
      progress.textContent = isOver ? textOf('judging.votes', { count: ballot.voted }) : textOf('judging.pair', { number: ballot.voted + 1, pairs: ballot.pairs });
      bar.hidden = isOver;
      drawBar(ballot.voted, ballot.pairs);
      for (const video of [one, other, best]) video.pause();
      if (isOver) { dialog.focus(); ranking(); return; } // what had the focus may be hidden now
      for (const { side, video } of sides) video.src = ballot[`${side}_url`];
    };
    const ranking = async () => {
      await load();
      result.replaceChildren(...places.slice(0, 5).map((place) => make('li', {}, translated(place.text))));
      const data = isEven() ? null : winner();
      if (places.length) title.textContent = headline();
      best.hidden = choose.hidden = motion.hidden = !data;
      if (data) { best.src = data.url; choose.setAttribute('aria-label', textOf('player.use_which', { name: data.label })); }
    };
    const vote = async (choice) => {
      if (isBusy || !ballot || !ballot.id) return;
      isBusy = true;
      try {
        before = ballot;
        await sendJson('PUT', pathOf(`pairs/${ballot.id}`), { choice });
        turn(await nextPair());
      } catch (error) { progress.textContent = reasonOf(error); }
      isBusy = false;
    };
    const back = () => { if (before) { const again = before; before = null; turn(again); } };
    dialog.addEventListener('keydown', (event) => {
      event.stopPropagation();
      const press = { ArrowLeft: () => vote('a'), ArrowRight: () => vote('b'), ArrowDown: () => vote('tie'), Backspace: back, ' ': () => motion.click() }[event.key];
      if (!press || (event.key === ' ' && event.target !== dialog)) return; // Space presses a focused button
      event.preventDefault();
      press();
    });
    dialog.addEventListener('close', () => { dialog.remove(); load(); part('blind').focus(); });
    root.append(dialog);
    outcome.hidden = true;
    run();
    dialog.showModal();
    dialog.focus(); // the keys are its own, and none of them leaves
    nextPair().then(turn, (error) => { progress.textContent = reasonOf(error); });
  };
  part('blind').addEventListener('click', duel);

  return {
    adorn,
    key: (cell, key) => {
      const mark = { s: 'favourite', x: 'rejected' }[key.toLowerCase()];
      if (!mark || !player.judged() || !cell.video) return false;
      set(cell, mark);
      return true;
    },
    follow: (id) => {
      if (shown === id) { showAll(); return; }
      shown = id;
      marks.clear();
      places = [];
      votes = 0;
      for (const name of ['only', 'hide']) part(name).setAttribute('aria-pressed', 'false');
      showAll();
      load();
    },
  };
};
