// Scores of search results: pages for users come before the references, and those before pages about the code.
const LATER = { "hardware/": 100, "reference/api/": 500, "internals/": 1000 };
var Scorer = {
  score: ([docname, title, anchor, descr, score]) => {
    const group = Object.keys(LATER).find((start) => docname.startsWith(start));
    return group ? score - LATER[group] : score;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
