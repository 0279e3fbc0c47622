"use strict";
/* Two texts, word by word: which words of each are not the other's. */
const MOST_EDITS = 2000;  // the memory of an alignment grows with their square: 16 MB
const SPACELESS = "\\u0e00-\\u0eff\\u1000-\\u109f\\u1780-\\u17ff\\u3040-\\u30ff\\u3400-\\u9fff\\uf900-\\ufaff";
const TOKEN = new RegExp(`[${SPACELESS}]|(?:(?![${SPACELESS}])[\\p{L}\\p{M}\\p{N}_])+|(\\S)\\1*`, "gu");

/* [{start, end, word}] in UTF-16 units; white space is between them. */
function tokens(text) {
  return Array.from(text.matchAll(TOKEN), ({0: word, index}) => ({word, start: index, end: index + word.length}));
}

/* Which of a and of b are in the longest common subsequence (Myers 1986, the greedy algorithm); null when more than
   MOST_EDITS are not. */
function aligned(a, b) {
  const furthest = new Int32Array(2 * MOST_EDITS + 3), origin = MOST_EDITS + 1, trace = [];
  const down = (v, at, k, d) => k === -d || (k !== d && v[at + k - 1] < v[at + k + 1]);
  for (let d = 0; d <= MOST_EDITS; d++) {
    trace.push(furthest.slice(origin - d - 1, origin + d + 2));
    for (let k = -d; k <= d; k += 2) {
      let x = down(furthest, origin, k, d) ? furthest[origin + k + 1] : furthest[origin + k - 1] + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x++;
      furthest[origin + k] = x;
      if (x >= a.length && x - k >= b.length) return followed(a.length, b.length, trace, down);
    }
  }
  return null;
}

function followed(x, y, trace, down) {
  const same = [new Uint8Array(x), new Uint8Array(y)];
  for (let d = trace.length - 1; d >= 0; d--) {
    const before = trace[d], at = d + 1, k = x - y, from = down(before, at, k, d) ? k + 1 : k - 1;
    const fromX = d ? before[at + from] : 0, fromY = d ? fromX - from : 0;
    while (x > fromX && y > fromY) { same[0][--x] = 1; same[1][--y] = 1; }
    x = fromX; y = fromY;
  }
  return same;
}

/* For texts that differ too much to be aligned: words that are in three in a row which the other has somewhere. */
function shared(a, b) {
  const triples = words => words.slice(2).map((_, i) => words.slice(i, i + 3).join("\0"));
  const all = [a, b].map(words => triples(words)), sets = all.map(each => new Set(each));
  return all.map((own, side) => {
    const same = new Uint8Array((side ? b : a).length);
    own.forEach((triple, i) => { if (sets[1 - side].has(triple)) same.fill(1, i, i + 3); });
    return same;
  });
}

/* Two alike words between two long differences are chance, and would cut them in pieces. */
function mend(same) {
  const runs = [];  // [same?, from in a, from in b]
  let [i, j] = [0, 0];
  while (i < same[0].length || j < same[1].length) {
    const alike = Boolean(i < same[0].length && same[0][i] && j < same[1].length && same[1][j]);
    if (!runs.length || runs.at(-1)[0] !== alike) runs.push([alike, i, j]);
    if (alike) { i++; j++; }
    else if (i < same[0].length && !same[0][i]) i++;
    else j++;
  }
  runs.push([null, i, j]);
  const size = n => Math.max(runs[n + 1][1] - runs[n][1], runs[n + 1][2] - runs[n][2]);
  for (let n = 1; n < runs.length - 2; n++) {
    if (!runs[n][0] || size(n) > 2 || size(n - 1) < 4 || size(n + 1) < 4) continue;
    same[0].fill(0, runs[n][1], runs[n + 1][1]);
    same[1].fill(0, runs[n][2], runs[n + 1][2]);
  }
  return same;
}

/* {differences, sides: [left, right]}: of each text the pieces [start, end) that differ, with the number of the
   difference. Numbers are the same on both sides, where one piece may be empty; null: they could not be aligned. */
function compare(left, right) {
  const found = [tokens(left), tokens(right)], words = found.map(each => each.map(({word}) => word));
  const exact = aligned(...words), same = exact ? mend(exact) : shared(...words), sides = [[], []], place = [0, 0];
  const end = side => place[side] === found[side].length;
  const take = (side, number) => {
    const first = place[side];
    while (!end(side) && !same[side][place[side]]) place[side]++;
    const at = first ? found[side][first - 1].end : 0, last = place[side];
    sides[side].push(last > first ? {start: found[side][first].start, end: found[side][last - 1].end, number} : {start: at, end: at, number});
  };
  if (!exact) {
    for (const side of [0, 1])
      for (; !end(side); place[side]++) if (!same[side][place[side]]) { take(side, sides[side].length); place[side]--; }
    return {differences: null, sides};
  }
  let differences = 0;
  while (!end(0) || !end(1)) {
    if (!end(0) && !end(1) && same[0][place[0]] && same[1][place[1]]) { place[0]++; place[1]++; }
    else { take(0, differences); take(1, differences++); }
  }
  return {differences, sides};
}
