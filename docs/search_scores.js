// Scores of search results: pages for users first, then the references, the pages about the package's own code last.
var Scorer = {
  score: ([docname, title, anchor, descr, score]) =>
    score - (docname.startsWith("internals/") ? 1000 : docname.startsWith("hardware/") ? 100 : 0),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
