// The first frame: stretched, cropped or fitted to the video's size in the browser, and brought by dropping a picture of
// this page on it, by Ctrl/Cmd+V anywhere, or as the last frame of a result. What arrives goes the way of an upload.
(() => {
  const DRAGGED = 'application/x-wan-ui-picture'; // a data URL, or the address of a video whose middle frame is meant
  const MODES = ['stretch', 'crop', 'fit'];
  const SETTLED = 500; // milliseconds after which a changed size is final
  const { dom, toast } = window.wanUi;
  // A file that is no image has the browser's broken picture; why it cannot be read stands below.
  for (const name of ['error', 'load']) {
    document.addEventListener(name, ({ target }) => {
      if (target instanceof HTMLImageElement && target.closest('#form .image-container')) target.style.visibility = name === 'error' ? 'hidden' : '';
    }, true);
  }
  const takes = () => (document.documentElement.dataset.firstFrame || 'none') !== 'none';
  const shown = () => document.querySelector('#field-ctrl-img .image-frame img');
  const section = () => document.querySelector('#form .first-frame');

  // `of` is the picture as it was brought, `address` what the control shows of it, `size` what it was shaped for.
  let frame = { mode: 'stretch', of: null, address: null, size: '' }, expected = false, timer = 0;

  const give = async (blob, name = 'first-frame.png') => {
    if (!takes()) {
      toast(textOf('first_frame.not_taken'));
      return false;
    }
    return dom.giveImage('ctrl-img', new File([blob], name, { type: blob.type || 'image/png' }));
  };
  const blobAt = async (address) => {
    const answer = await window.fetch(address, { cache: 'no-store' });
    if (!answer.ok) throw new Error(`${answer.status}`);
    return answer.blob();
  };
  const fromAddress = async (address) => {
    try {
      return await give(await blobAt(address));
    } catch (error) {
      toast(textOf('first_frame.gone'));
      return false;
    }
  };
  const toPng = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
  const still = (video) => {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext('2d').drawImage(video, 0, 0);
    return canvas;
  };
  const middleOf = (address) => new Promise((resolve, reject) => {
    const video = document.createElement('video');
    video.muted = true;
    video.preload = 'auto';
    video.onerror = () => reject(new Error('unreadable'));
    video.onloadedmetadata = () => { video.currentTime = video.duration / 2; };
    video.onseeked = () => toPng(still(video)).then(resolve);
    video.src = address;
  });

  // The effective size, from the note that the server writes under the fields, and whether that note is still the one for
  // the numbers before.
  const note = () => document.querySelector('#form .effective');
  const effective = () => note() && [Number(note().dataset.width), Number(note().dataset.height)];
  const isNoteOld = () => Boolean(shown()) && frame.mode !== 'stretch' && note()
    && (Number(note().dataset.askedWidth) !== Number(dom.value('width')) || Number(note().dataset.askedHeight) !== Number(dom.value('height')));

  // A picture on its way, for which a press waits.
  const IMAGES = '#field-ctrl-img, #field-ctrl-img-last';
  const TAKEN = 1000; // milliseconds within which Gradio begins to upload what it was given
  let given = null, shaping = 0, uploading = [];
  const isArriving = () => Boolean(given || uploading.length || (shown() && (shaping || timer || isNoteOld())));
  const settle = () => {
    const fields = [...document.querySelectorAll(IMAGES)], before = uploading;
    uploading = fields.filter((field) => field.querySelector('.uploading'));
    if (uploading.includes(given)) given = null;
    const failed = before.some((field) => !uploading.includes(field) && !field.querySelector('img')); // Gradio tells of it
    if (failed) window.wanUi.held.drop();
    window.wanUi.held.look();
  };
  window.wanUi.held.waitFor(() => isArriving() && textOf('pressed.picture'));
  document.addEventListener('change', ({ target }) => {
    if (!(target instanceof HTMLInputElement) || target.type !== 'file') return;
    const field = target.closest(IMAGES);
    if (!field) return;
    given = field;
    window.setTimeout(() => {
      if (given === field) given = null;
      settle();
    }, TAKEN);
  }, true);

  // The picture with the video's aspect, not scaled: that is the server's, with the reference's filter.
  const shaped = async (blob, mode, size) => {
    const upright = document.querySelector('#field-apply-exif input');
    const picture = await createImageBitmap(blob, { imageOrientation: upright && upright.checked ? 'from-image' : 'none' });
    const { width, height, x, y } = reshaped(mode, picture, size);
    const canvas = make('canvas', { width, height });
    const context = canvas.getContext('2d');
    context.fillStyle = '#000';
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(picture, x, y);
    return toPng(canvas);
  };
  const shape = async (mode) => {
    const size = effective();
    if (!shown() || !size) return;
    shaping += 1;
    try {
      if (!frame.of) frame.of = await blobAt(shown().src);
      frame = { ...frame, mode, size: size.join('x') };
      mark();
      expected = true;
      await give(mode === 'stretch' ? frame.of : await shaped(frame.of, mode, size));
    } catch (error) {
      expected = false;
      toast(textOf('first_frame.gone'));
    } finally {
      shaping -= 1;
      settle();
    }
  };

  const modes = make('div', { id: 'first-frame-fit', class: 'seg fit', role: 'group', 'aria-label': textOf('first_frame.modes') },
    ...MODES.map((mode) => makeButton({ 'data-mode': mode }, () => shape(mode), textOf(`first_frame.${mode}`))));
  const mark = () => {
    for (const button of modes.children) button.setAttribute('aria-pressed', String(button.dataset.mode === frame.mode));
  };
  const look = () => {
    const home = section();
    if (!home) return;
    if (modes.parentElement !== home) home.insertBefore(modes, home.querySelector('.row.line'));
    const image = shown(), address = image ? image.src : null;
    modes.hidden = !image;
    // What this script gave is another shape of the same picture, for which the control is empty meanwhile; anything else
    // is another picture.
    if (address !== frame.address && (address || !expected)) {
      frame = expected ? { ...frame, address } : { mode: 'stretch', of: null, address, size: '' };
      expected = false;
      mark();
    }
    const size = effective();
    if (image && frame.mode !== 'stretch' && size && size.join('x') !== frame.size) {
      window.clearTimeout(timer);
      timer = window.setTimeout(() => {
        timer = 0;
        shape(frame.mode);
      }, SETTLED);
    }
    settle();
  };
  const watch = () => {
    const form = document.getElementById('form');
    if (!form) {
      requestAnimationFrame(watch);
      return;
    }
    new MutationObserver(look).observe(form, { childList: true, subtree: true, attributeFilter: ['src', 'data-width', 'data-height', 'data-asked-width', 'data-asked-height'] });
    look();
  };
  watch();

  // Dragging: the frame in sight of a result, the middle frame of a finished video's thumbnail.
  document.addEventListener('dragstart', (event) => {
    const picture = event.target;
    if (!(picture instanceof HTMLElement) || !event.dataTransfer) return;
    if (picture.matches('video') && picture.videoWidth) event.dataTransfer.setData(DRAGGED, still(picture).toDataURL('image/png'));
    const poster = picture.matches('img') && /v1\/gallery\/([0-9a-zA-Z]+)-(\d+)\/poster\.jpg/.exec(picture.src);
    if (poster) event.dataTransfer.setData(DRAGGED, `v1/requests/${poster[1]}/videos/${poster[2]}`);
  });
  const isPicture = (event) => event.dataTransfer && [...event.dataTransfer.types].includes(DRAGGED);
  document.addEventListener('dragover', (event) => {
    if (!isPicture(event)) return;
    const over = event.target.closest('#form .first-frame');
    if (section()) section().classList.toggle('over', Boolean(over));
    if (over) {
      event.preventDefault();
      event.stopPropagation();
    }
    const tab = event.target.closest('#top > .tab-wrapper [role=tab]'); // from the gallery to the form
    if (tab && tab.getAttribute('aria-selected') !== 'true') tab.click();
  }, true);
  document.addEventListener('dragend', () => section() && section().classList.remove('over'), true);
  document.addEventListener('drop', async (event) => {
    if (!isPicture(event) || !event.target.closest('#form .first-frame')) return;
    event.preventDefault();
    event.stopPropagation();
    section().classList.remove('over');
    const dragged = event.dataTransfer.getData(DRAGGED);
    try {
      await give(dragged.startsWith('data:') ? await blobAt(dragged) : await middleOf(dragged));
    } catch (error) {
      toast(textOf('first_frame.gone'));
    }
  }, true);

  document.addEventListener('paste', async (event) => {
    const files = event.clipboardData ? [...event.clipboardData.files] : [];
    const picture = files.find((file) => file.type.startsWith('image/'));
    const form = document.getElementById('form');
    if (!picture || !form || form.offsetParent === null || event.clipboardData.getData('text/plain')) return;
    event.preventDefault();
    event.stopPropagation();
    if (await give(picture, picture.name || 'pasted.png')) toast(textOf('first_frame.pasted'));
  }, true);

  window.wanUi.firstFrame = { fromAddress };
})();
