// The page of the service. Texts enter the page as text nodes alone, so that no title is read as HTML.
'use strict';

const $ = (id) => document.getElementById(id);
const state = { history: [], k: 10, beams: null, masks: Object.create(null) }; // history: {item, title}; masks: name -> 'only' | 'not'
let service = { masks: [], beams: [] };
let newest = 0; // number of the newest question; answers to earlier ones are dropped

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

async function ask(path, body) {
  const options = body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) };
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error || `${path} answered ${response.status}`);
  return answer;
}

const nameOf = (each) => each.title || each.item;
const labelled = (each) => [nameOf(each), ...(each.title ? [make('small', {}, each.item)] : [])];

// --- the address keeps the state: #history=ID,ID&k=10&beams=50&only=NAME,NAME&not=NAME

const encoded = (texts) => texts.map(encodeURIComponent).join(',');
const decoded = (text) => (text ? text.split(',').map(plain) : []);

function plain(text) {
  try {
    return decodeURIComponent(text);
  } catch { // no encoding, such as a single %
    return text;
  }
}

function written() {
  const named = (kind) => Object.keys(state.masks).filter((name) => state.masks[name] === kind);
  const parts = {
    history: encoded(state.history.map((each) => each.item)),
    k: state.k === 10 ? '' : String(state.k),
    beams: state.beams === null ? '' : String(state.beams),
    only: encoded(named('only')),
    not: encoded(named('not')),
  };
  const text = Object.entries(parts).filter(([, value]) => value).map(([name, value]) => `${name}=${value}`);
  return text.join('&');
}

async function readAddress() {
  const parts = Object.fromEntries(location.hash.slice(1).split('&').map((part) => part.split('=')));
  const ids = decoded(parts.history);
  const found = await Promise.all(ids.map((id) => ask(`items?limit=1&q=${encodeURIComponent(id)}`)));
  state.history = ids.map((id, n) => found[n].items.find((each) => each.item === id) || { item: id, title: null });
  state.k = Number.parseInt(parts.k, 10) || Math.min(10, service.items, Math.max(...service.beams));
  state.beams = Number.parseInt(parts.beams, 10) || null;
  state.masks = Object.create(null);
  for (const name of decoded(parts.only)) state.masks[name] = 'only';
  for (const name of decoded(parts.not)) state.masks[name] = 'not';
}

// --- history and options

function showState() {
  $('history').replaceChildren(...state.history.map((each, place) =>
    make('li', {}, ...labelled(each), make('button', {
      type: 'button', 'aria-label': `remove ${nameOf(each)}`,
      onclick: () => { state.history.splice(place, 1); changed(); },
    }, '×'))));
  const size = state.history.length;
  $('count').textContent = size ? 'the newest last' : 'empty: the most popular items are shown';
  $('clear').hidden = size === 0;
  $('k').value = state.k;
  if (service.beams.length > 1) $('beams').value = state.beams === null ? service.beams[0] : state.beams;
  for (const button of $('masks').querySelectorAll('button')) {
    const kind = state.masks[button.dataset.name];
    button.dataset.state = kind || 'off';
    button.textContent = kind ? `${kind} ${button.dataset.name}` : button.dataset.name;
    button.setAttribute('aria-pressed', String(Boolean(kind)));
  }
}

function showService() {
  const { items, catalogue, step } = service;
  $('about').textContent = `${items.toLocaleString('en')} items, catalogue ${catalogue}, step ${step}`;
  $('k').max = Math.max(...service.beams);
  $('beams-label').hidden = service.beams.length < 2;
  $('beams').replaceChildren(...service.beams.map((each) => make('option', { value: each }, String(each))));
  $('masks').hidden = service.masks.length === 0;
  $('masks').replaceChildren('Masks', ...service.masks.map((name) => {
    const button = make('button', { type: 'button', title: 'off, only these items, not these items', onclick: () => cycle(name) });
    button.dataset.name = name;
    return button;
  }));
}

function cycle(name) {
  const next = { undefined: 'only', only: 'not' }[state.masks[name]];
  if (next) state.masks[name] = next;
  else delete state.masks[name];
  changed();
}

function add(each) {
  state.history.push({ item: each.item, title: each.title });
  changed();
}

function changed() {
  history.replaceState(null, '', `#${written()}`);
  showState();
  recommend();
}

// --- recommendations

function question() {
  const body = { history: state.history.map((each) => each.item), k: state.k, explain: true, unknown: 'skip' };
  if (state.beams !== null) body.beams = state.beams;
  const terms = Object.entries(state.masks).map(([name, kind]) => (kind === 'not' ? `~${name}` : name));
  if (terms.length) body.within = terms.join(' & ');
  return body;
}

async function recommend() {
  const number = (newest += 1);
  document.querySelector('.results').classList.add('busy');
  const start = performance.now();
  let answer = null;
  let failure = '';
  try {
    answer = await ask('recommend', question());
  } catch (error) {
    failure = error.message;
  }
  if (number !== newest) return;
  document.querySelector('.results').classList.remove('busy');
  $('error').hidden = !failure;
  $('error').textContent = failure;
  const found = answer ? answer.recommendations : [];
  const counted = answer ? answer.one_hop : [];
  const ids = (list) => new Set(list.map((each) => each.item));
  $('model').replaceChildren(...rows(found, ids(counted), true));
  $('counting').replaceChildren(...rows(counted, ids(found), false));
  const time = `${Math.round(performance.now() - start)} ms`;
  const gone = answer && answer.unknown ? `not in the catalogue: ${answer.unknown.join(', ')}` : '';
  $('note').textContent = answer ? [answer.note, gone, time, `catalogue ${answer.catalogue}`].filter(Boolean).join(' · ') : '';
  if (answer && answer.catalogue !== service.catalogue) {
    service = await ask('catalogue');
    showService();
    showState();
  }
  document.body.dataset.shown = String(number); // for tests
}

function rows(list, others, isModel) {
  if (!list.length) return [make('tr', {}, make('td', { colspan: 3, class: 'none' }, 'no item'))];
  return list.map((each, n) => {
    const link = make('button', {
      type: 'button', class: 'link', title: 'add to the history', onclick: () => add(each),
    }, nameOf(each));
    const cell = make('td', { class: 'title' }, link, ...(each.title ? [make('small', {}, each.item)] : []));
    if (isModel) cell.append(path(each.sid));
    const cells = [make('td', { class: 'n' }, String(n + 1)), cell];
    if (isModel) cells.push(make('td', { class: 'n' }, each.score.toFixed(3)));
    return make('tr', { class: others.has(each.item) ? 'both' : '' }, ...cells);
  });
}

function path(codes) {
  return make('div', { class: 'path' }, ...codes.map(({ code, keywords }) =>
    make('span', {}, make('b', {}, code), ...(keywords.length ? [` ${keywords.join(', ')}`] : []))));
}

// --- search by title

let wanted = 0;
let chosen = -1;

function close() {
  $('found').hidden = true;
  $('find').setAttribute('aria-expanded', 'false');
  $('find').removeAttribute('aria-activedescendant');
  chosen = -1;
}

async function find() {
  const number = (wanted += 1);
  const text = $('find').value;
  let items = [];
  try {
    ({ items } = await ask(`items?limit=12&q=${encodeURIComponent(text)}`));
  } catch (error) {
    $('error').hidden = false;
    $('error').textContent = error.message;
  }
  if (number !== wanted || document.activeElement !== $('find')) return;
  chosen = -1;
  const options = items.map((each, n) => {
    const option = make('li', { role: 'option', id: `found-${n}`, 'aria-selected': 'false' }, ...labelled(each));
    option.addEventListener('mousedown', (event) => { event.preventDefault(); pick(each); });
    option.pick = () => pick(each);
    return option;
  });
  $('found').replaceChildren(...(options.length ? options : [make('li', { class: 'none' }, 'no item has these words')]));
  $('found').hidden = false;
  $('find').setAttribute('aria-expanded', 'true');
}

function pick(each) {
  $('find').value = '';
  wanted += 1;
  close();
  add(each);
}

function move(step) {
  const options = [...$('found').querySelectorAll('[role=option]')];
  if ($('found').hidden || !options.length) return;
  chosen = (chosen + step + options.length + (chosen < 0 && step < 0 ? 1 : 0)) % options.length;
  options.forEach((option, n) => option.setAttribute('aria-selected', String(n === chosen)));
  options[chosen].scrollIntoView({ block: 'nearest' });
  $('find').setAttribute('aria-activedescendant', options[chosen].id);
}

let timer = 0;
$('find').addEventListener('input', () => { clearTimeout(timer); timer = setTimeout(find, 120); });
$('find').addEventListener('focus', find);
$('find').addEventListener('blur', close);
$('find').addEventListener('keydown', (event) => {
  if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
    event.preventDefault();
    move(event.key === 'ArrowDown' ? 1 : -1);
  } else if (event.key === 'Enter') {
    const options = $('found').querySelectorAll('[role=option]');
    if (!$('found').hidden && options.length) options[Math.max(chosen, 0)].pick();
  } else if (event.key === 'Escape') {
    close();
  }
});
$('k').addEventListener('change', () => { state.k = Number.parseInt($('k').value, 10) || 0; changed(); });
$('beams').addEventListener('change', () => { state.beams = Number.parseInt($('beams').value, 10); changed(); });
$('clear').addEventListener('click', () => { state.history = []; changed(); });
window.addEventListener('hashchange', async () => { await readAddress(); showState(); recommend(); });

async function start() {
  try {
    service = await ask('catalogue');
  } catch (error) { // the service is loading
    $('about').textContent = error.message;
    setTimeout(start, 1000);
    return;
  }
  showService();
  await readAddress();
  showState();
  recommend();
}
start();
